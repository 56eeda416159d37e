"""`clipsearch copy`: the same documents in another index, without encoding."""

import json
from pathlib import Path

import pytest
from vespa_stub import StubVespa

import clipsearch
from clipsearch import cli
from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines import open_engine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        {"id": str(n), "captions": [f"{n} dog", "cat"], "class": "home", "year": 2000 + n,
         "embedding": [float(n), 1.0]}
        for n in range(7)
    ]  # fmt: skip
    rows[3].pop("class")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert clipsearch.feed("m.jsonl", "from.index").fed == 7
    return tmp_path


def copy(*arguments: str) -> int:
    return cli._run(["copy", *arguments], debug=False)


def deploy(vespa: StubVespa, dimension: int) -> None:
    client = connect(vespa.url)
    write_info(client, IndexInfo(dimension))
    client.close()


def held(target: str) -> dict[str, tuple[dict[str, object], list[float]]]:
    engine = open_engine(target)
    try:
        return {each.id: shown(each) for each in engine.visit(embeddings=True)}
    finally:
        engine.close()


def shown(document: Document) -> tuple[dict[str, object], list[float]]:
    assert document.embedding is not None
    return document.to_json(), [round(float(value), 6) for value in document.embedding]


def test_a_copy_holds_the_same_and_a_feed_into_it_has_nothing_to_do(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert copy("from.index", "to.index") == 0
    assert capsys.readouterr().out.startswith("copied 7 documents to ")
    assert held("to.index") == held("from.index")
    assert clipsearch.feed("m.jsonl", "to.index").unchanged == 7
    with clipsearch.open("to.index") as search:
        assert len(search.query("dog", mode="bm25", filters="year>=2004").hits) == 3
    assert copy("from.index", "to.index") == 1
    assert "is there already" in capsys.readouterr().err


def test_between_the_engines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubVespa(dimension=2) as vespa:
        deploy(vespa, 2)
        assert copy("from.index", vespa.url) == 0
        assert held(vespa.url) == held("from.index")
        assert copy(vespa.url, "back.index") == 0
        assert held("back.index") == held("from.index")
        assert copy("from.index", vespa.url) == 1
        assert "into an empty index" in capsys.readouterr().err
    with StubVespa(dimension=3) as vespa:
        deploy(vespa, 3)
        assert copy("from.index", vespa.url) == 1
    assert "was deployed for 3 values" in capsys.readouterr().err


def test_parquet_feeds_a_new_index(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert copy("from.index", "all.parquet") == 0
    assert copy("from.index", "all.parquet") == 2
    assert clipsearch.feed("all.parquet", "again.index").fed == 7
    before, after = held("from.index"), held("again.index")
    for id, (document, vector) in before.items():
        other, other_vector = after[id]
        assert vector == other_vector
        for part in ("captions", "tags", "numbers", "path"):
            assert document.get(part) == other.get(part), part
