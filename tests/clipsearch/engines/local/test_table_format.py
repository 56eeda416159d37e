"""What was written while documents lay in a LanceDB table (tests/fixtures/table-format) opens."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from killing import Killed, killer
from local_collection import same

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery
from clipsearch.engines.local import checksums
from clipsearch.engines.local.earlier import documents as earlier
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.filtering import NumberFilter
from finetune.errors import EngineError

KEPT = Path(__file__).resolve().parents[3] / "fixtures" / "table-format"
LINE = "an earlier version fed this index: 60 documents were brought to today's form"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what was kept, to be changed."""
    return Path(shutil.copytree(KEPT, tmp_path / "photos"))


def kept_documents() -> list[Document]:
    stored = json.loads((KEPT / "documents.json").read_text(encoding="utf-8"))
    return [
        Document.from_json(each["document"], np.array(each["embedding"], np.float32))
        for each in stored
    ]


def assert_as_kept(engine: LocalEngine) -> None:
    documents = kept_documents()
    found = engine.get([document.id for document in documents], embeddings=True)
    assert all(map(same, found, documents)) and engine.count() == len(documents)
    assert {document.id for document in engine.visit()} == {each.id for each in documents}
    assert engine.count_by_data_set() == {"photos": 40, "more": 20}
    for asked in json.loads((KEPT / "answers.json").read_text(encoding="utf-8")):
        page = engine.search(query_of(asked))
        assert page.total == asked["total"]
        assert [hit.score for hit in page.hits] == pytest.approx(
            [score for _, score in asked["hits"]], abs=1e-4
        )
        assert [hit.document.id for hit in page.hits] == [name for name, _ in asked["hits"]]
        assert [list(each) for each in page.facets["class"]] == asked["facets"]


def query_of(asked: dict[str, Any]) -> EngineQuery:
    filters = () if asked["low"] is None else (NumberFilter("year", low=asked["low"]),)
    return EngineQuery(
        asked["mode"],
        tuple(asked["tokens"]),
        np.array(asked["vector"], np.float32),
        k=15,
        filters=filters,
        facets=("class",),
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def clipsearch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_it_answers_as_it_did_and_reading_changes_nothing(folder: Path) -> None:
    before = content(folder / "index")
    engine = LocalEngine.open(folder / "index")
    assert_as_kept(engine)
    engine.close()
    done = clipsearch(folder, "status", "--index", "index", "--verify")
    assert done.returncode == 0 and "which the next feed converts" in done.stderr, done.stderr
    assert content(folder / "index") == before


def test_the_next_feed_converts_it_with_one_line(folder: Path) -> None:
    reader = LocalEngine.open(folder / "index")
    assert reader.count() == 60
    done = clipsearch(folder, "feed", "photos.csv", "--index", "index", "--data-set", "photos")
    assert done.returncode in (0, 3), done.stderr
    assert "fed 0, updated 0, unchanged 40" in done.stdout
    assert (done.stdout + done.stderr).count(LINE) == 1
    names = {path.name for path in (folder / "index").iterdir()}
    assert "documents.sqlite" in names
    assert not any(name.startswith(("documents.lance", "snapshot", "current")) for name in names)
    assert_as_kept(LocalEngine.open(folder / "index"))
    assert_as_kept(reader)  # which was open all the while
    verified = checksums.verify(folder / "index")
    assert not verified.broken and not verified.notes
    done = clipsearch(folder, "feed", "more.csv", "--index", "index", "--data-set", "more")
    assert "unchanged 20" in done.stdout and LINE not in done.stdout + done.stderr


def test_a_delete_converts_it_too_with_one_line(folder: Path) -> None:
    gone = kept_documents()[3].id
    done = clipsearch(folder, "delete", gone, "--index", "index", "--yes")
    assert done.returncode == 0 and done.stdout == "removed 1\n", done.stderr
    assert done.stderr.count(LINE) == 1
    engine = LocalEngine.open(folder / "index")
    assert engine.count() == 59 and engine.get([gone]) == [None]


@pytest.mark.parametrize("step", range(6))
def test_killed_while_it_is_converted(
    folder: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.engines.local import engine as local
    from clipsearch.engines.local.writing import write

    monkeypatch.setattr(write, "BATCH_OPERATIONS", 25)
    killed_after = killer(step)

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_sections", killed_after(write.write_sections))
        patch.setattr(local, "write_info", killed_after(local.write_info))
        patch.setattr(local, "remove_earlier", killed_after(local.remove_earlier))
        with pytest.raises(Killed):
            LocalEngine.open(folder / "index").upgrade(lambda: None)
            raise Killed
    assert_as_kept(LocalEngine.open(folder / "index"))
    engine = LocalEngine.open(folder / "index")
    engine.upgrade(lambda: None)
    engine.finish_feed()
    assert_as_kept(engine)
    assert not checksums.verify(folder / "index").broken


def test_what_is_broken_is_not_converted(folder: Path) -> None:
    (vectors,) = (folder / "index").glob("snapshot-*/embeddings.npy")
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(EngineError, match=r"embeddings\.npy: is not as it was written, so the"):
        LocalEngine.open(folder / "index").upgrade(lambda: None)
    # The mend of the sentence.
    pytest.importorskip("lancedb")
    (folder / "index" / "current.json").unlink()
    engine = LocalEngine.open(folder / "index")
    assert engine.upgrade(lambda: None) == 60
    assert_as_kept(engine)


def test_after_a_stopped_feed_the_table_is_read(folder: Path) -> None:
    pytest.importorskip("lancedb")
    engine = LocalEngine.open(folder / "stopped")
    (document,) = engine.get(["photos/0005.jpg"])
    assert document is not None and document.captions == ("only in the table",)
    assert engine.upgrade(lambda: None) == 60
    (document,) = engine.get(["photos/0005.jpg"])
    assert document is not None and document.captions == ("only in the table",)


def test_without_lancedb_the_mend_is_named_and_nothing_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    before = content(folder / "stopped")
    with pytest.raises(EngineError, match=r"install LanceDB \(pip install lancedb\) and run the"):
        LocalEngine.open(folder / "stopped").count()
    with pytest.raises(EngineError, match="needs it no more"):
        LocalEngine.open(folder / "stopped").upgrade(lambda: None)
    after = content(folder / "stopped")
    assert {name: after[name] for name in before if name != "write.lock"} == {
        name: before[name] for name in before if name != "write.lock"
    }
    # An index whose feed ended needs no LanceDB.
    engine = LocalEngine.open(folder / "index")
    assert engine.upgrade(lambda: None) == 60
    assert_as_kept(engine)
    assert earlier.current_snapshot(folder / "index") is None
