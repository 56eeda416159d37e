"""What click complains of, with the mend."""

from pathlib import Path

import pytest

from clipsearch.cli import main

COMPLAINTS = {
    "query two dogs --index x": 'put in quotes: "two dogs"',
    "similar my photo.jpg --index x": "put in quotes",
    "query -cat --index x": "No such option '-c'. What begins with - and is no option stands after"
    " --, behind all options: clipsearch query … -- -cat",
    "query cat --fliter a --index x": "No such option '--fliter'. (Did you mean",
    "query cat -k abc --index x": "-k / --limit must be a whole number from 1 to 10,000, not abc",
    "query cat --candidates 0 --index x": "--candidates must be a whole number from 1 to 10,000",
    "query cat --min-score a --index x": "--min-score must be a number, not a",
    "query cat --page 0 --index x": "--page must be a whole number of at least 1, not 0",
    "query cat --csv --json --index x": "--csv and --json are two forms of an answer",
    "list --paths --ids --index x": "--paths and --ids are two forms of an answer",
    "feed a.csv b.csv --index x": "feed one after the other",
    "query cat": "which index? Name it with --index photos.index, or once for all commands: in"
    ' clipsearch.toml (index = "photos.index") or as CLIPSEARCH_INDEX',
    "deploy --precision double": "'double' is not one of",
}


@pytest.mark.parametrize("line", COMPLAINTS)
def test_a_complaint_says_the_mend(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert COMPLAINTS[line] in capsys.readouterr().err


def test_the_file_is_named_in_which_a_wrong_value_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for content, expected in {
        '[query]\nlimit = "many"': "10,000, not many (in {0})",
        "[qurey]\nlimit = 3": "{0}: [qurey] is no command; did you mean [query]?",
    }.items():
        (tmp_path / "clipsearch.toml").write_text(content)
        with pytest.raises(SystemExit):
            main(["query", "cat", "--index", "x"])
        assert expected.format(tmp_path / "clipsearch.toml") in capsys.readouterr().err


def test_the_mend_that_is_named_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["query", "--index", "none", "--", "-cat"])
    assert ended.value.code == 1
    assert "none: no index there" in capsys.readouterr().err
