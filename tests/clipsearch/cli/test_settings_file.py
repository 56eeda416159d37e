"""clipsearch.toml: what every command would repeat."""

from pathlib import Path
from typing import Any

import click
import pytest

from clipsearch import cli

Said = tuple[int, str]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What `feed` was asked for, in place of a feed."""
    import importlib

    calls: list[dict[str, Any]] = []
    module = importlib.import_module("clipsearch.cli.feed")
    command = module.feed
    monkeypatch.setattr(command, "callback", lambda **values: calls.append(values))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("CLIPSEARCH_INDEX", raising=False)
    return calls


def run(*arguments: str) -> Said:
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli._run(list(arguments), debug=False)
    return code, said.getvalue()


def test_options_come_from_the_nearest_file_above_then_the_environment_then_the_command_line(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clipsearch.toml").write_text(
        'index = "photos.index"\nencoder = "encoder"\n[feed]\nbatch-size = 7\nsplit = ["test"]\n'
    )
    assert run("feed", "m.csv") == (0, "")
    assert asked[-1]["index"] == str(tmp_path / "photos.index")
    assert asked[-1]["encoder"] == str(tmp_path / "encoder")
    assert asked[-1]["batch_size"] == 7 and asked[-1]["splits"] == ("test",)
    monkeypatch.setenv("CLIPSEARCH_INDEX", "of-environment")
    assert run("feed", "m.csv")[0] == 0 and asked[-1]["index"] == "of-environment"
    assert run("feed", "m.csv", "--index", "x", "--batch-size", "3")[0] == 0
    assert (asked[-1]["index"], asked[-1]["batch_size"]) == ("x", 3)
    (tmp_path / "below" / "clipsearch.toml").write_text('index = "http://vespa:8080"\n')
    monkeypatch.delenv("CLIPSEARCH_INDEX")
    assert run("feed", "m.csv")[0] == 0
    assert asked[-1]["index"] == "http://vespa:8080" and asked[-1]["batch_size"] is None


def test_the_environment_names_what_every_command_has_and_each_help_says_so(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INDEX", "ENCODER", "IMAGES", "LEDGER", "LANGUAGE", "EXCLUDE"):
        monkeypatch.setenv(f"CLIPSEARCH_{name}", f"of-{name}")
    monkeypatch.setenv("CLIPSEARCH_DEVICE", "cuda")
    assert run("feed", "m.csv") == (0, "")
    named = {name: str(asked[-1][name]) for name in ("index", "encoder", "images", "ledger")}
    assert named == {name: f"of-{name.upper()}" for name in named}
    assert (asked[-1]["language"], asked[-1]["device"]) == ("of-LANGUAGE", "cuda")
    missing = []
    for name in cli.COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        below = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in below:
            text = one.get_help(click.Context(one, info_name=name))
            options = {"index", "encoder", "images", "exclude", "ledger", "device", "language"}
            # Its --index is a Vespa's address, and no index that commands ask.
            for option in sorted(options - ({"index"} if name == "deploy" else set())):
                is_told = f"CLIPSEARCH_{option.upper()}" in text.replace("\n", "")
                has = any(f"--{option}" in each.opts for each in one.params)
                missing += [(name, one.name, option)] if has and not is_told else []
    assert missing == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("indx = 'a'\n", "indx is no option of every command"),
        ("[feed]\nbatchsize = 3\n", "[feed] has batchsize, but clipsearch feed has no --batchsize"),
        ("index = \n", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(
    asked: list[dict[str, Any]], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "clipsearch.toml").write_text(text)
    code, told = run("feed", "m.csv", "--index", "i")
    assert code == 2 and said in told and str(tmp_path / "clipsearch.toml") in told
    assert asked == []


def test_a_group_takes_the_table_of_its_command(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.cli.manifest import check

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(check, "callback", lambda **values: calls.append(values))
    (tmp_path / "clipsearch.toml").write_text('images = "p"\n[manifest.check]\nstrict = true\n')
    assert run("manifest", "check", "m.csv") == (0, "")
    assert calls[-1]["strict"] is True and calls[-1]["images"] == tmp_path / "p"


def test_one_value_in_the_file_is_enough_for_an_option_that_may_be_repeated(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "clipsearch.toml").write_text('index = "i"\n[feed]\nsplit = "test"\n')
    assert run("feed", "m.csv") == (0, "")
    assert asked[-1]["splits"] == ("test",)


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    assert "No such command 'querry'; did you mean query?" in run("querry", "x")[1]
    assert "did you mean" not in run("sing")[1]


def test_the_file_says_nothing_where_there_is_none(asked: list[dict[str, Any]]) -> None:
    code, said = run("feed", "m.csv")
    assert code == 2 and "--index" in said
    assert isinstance(cli.cli, click.Group)
