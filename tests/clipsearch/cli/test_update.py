"""`clipsearch update`: documents changed by hand."""

import json
from pathlib import Path

import pytest

import clipsearch
from clipsearch import cli


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        {"id": id, "caption": f"{id} dog", "class": "home", "year": 2010, "embedding": vector}
        for id, vector in (("a", [1.0, 0.0]), ("b", [0.0, 1.0]))
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPSEARCH_INDEX", "i.index")
    assert clipsearch.feed("m.jsonl", "i.index").fed == 2
    return tmp_path


def run(*arguments: str) -> int:
    return cli._run(["update", *arguments], debug=False)


def test_what_is_named_changes_and_the_rest_stays(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a", "--tag", "class=Beach", "--tag", "mood=", "--number", "stars=5",
               "--caption", "two cats", "--caption", "cats") == 0  # fmt: skip
    assert capsys.readouterr().out == "updated 1\n"
    with clipsearch.open("i.index") as search:
        a, b = search.get(["a", "b"], embeddings=True)
        assert a is not None and b is not None
        assert a.captions == ("two cats", "cats") and b.captions == ("b dog",)
        assert a.tags["class"] == "Beach" and b.tags["class"] == "home"
        assert a.numbers == {"year": 2010.0, "stars": 5.0}
        assert a.embedding is not None and a.embedding.tolist() == [1.0, 0.0]
        assert [hit.document.id for hit in search.query("cats", mode="bm25").hits] == ["a"]
        assert len(search.query("cats dog", mode="bm25", filters="stars>=5").hits) == 1
    # A feed leaves it alone until the row changes.
    assert clipsearch.feed("m.jsonl", "i.index").unchanged == 2
    text = (place / "m.jsonl").read_text().replace("a dog", "a bird")
    (place / "m.jsonl").write_text(text)
    assert clipsearch.feed("m.jsonl", "i.index").updated == 1
    assert run("a", "--tag", "class=") == 0
    with clipsearch.open("i.index") as search:
        (a,) = search.get(["a"])
        assert a is not None and a.captions == ("a bird",) and "class" not in a.tags


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "nothing to change"),
        (["a", "--tag", "class"], "write COLUMN=VALUE"),
        (["a", "--tag", "class=x", "--tag", "class=y"], "given twice"),
        (["a", "--number", "year=new"], "is no number"),
        (["a", "--tag", "year=2012"], "keeps it as numbers; give a number"),
        (["a", "--number", "class=1"], "keeps it as text; give a tag"),
        (["a", "--caption", " "], "--caption is empty"),
        (["a", "nobody", "--tag", "class=x"], "has no document nobody"),
    ],
)
def test_what_cannot_be_changes_nothing(
    place: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) in (1, 2)
    assert said in capsys.readouterr().err
    with clipsearch.open("i.index") as search:
        (a,) = search.get(["a"])
        assert a is not None and a.tags["class"] == "home"
