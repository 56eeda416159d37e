"""One flipped byte in a file of an index is found, named, and mended by what the sentence says."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from local_collection import DIMENSION, feed, make_document

from clipsearch.engine import IndexInfo, Upsert
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.folder import INDEX_FOLDER, INFO_FILE, SNAPSHOT_FOLDER
from finetune.errors import EngineError


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a few documents, with a second feed over the first."""
    folder = tmp_path_factory.mktemp("made") / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION))
    feed(engine, [Upsert(make_document(number)) for number in range(40)])
    feed(engine, [Upsert(make_document(number, seed=1)) for number in range(30, 50)])
    engine.close()
    return folder


@pytest.fixture
def index(fed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fed, tmp_path / "photos.index"))


def flip(path: Path, place: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def status(index: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipsearch", "status", "--index", index, "--verify", *more]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_a_whole_index_is_whole(index: Path) -> None:
    found = checksums.verify(index)
    assert not found.broken and not found.notes
    table = [path for path in (index / "documents.lance").rglob("*") if path.is_file()]
    snapshot = list(index.glob("snapshot-*/*"))
    assert found.files == len(table) + len(snapshot) + 1  # and index.json


def test_every_file_of_an_index_is_of_a_name_that_counts_as_ours(index: Path) -> None:
    paths = [path.relative_to(index).as_posix() for path in index.rglob("*") if path.is_file()]
    assert [path for path in paths if not INDEX_FOLDER.writes(path)] == [".clipsearch.json"]
    assert all(SNAPSHOT_FOLDER.writes(path.name) for path in index.glob("snapshot-*/*"))


def test_every_flipped_byte_is_found(index: Path) -> None:
    paths = [*index.glob("snapshot-*/*"), *(index / "documents.lance").rglob("*")]
    for path in [path for path in paths if path.is_file() and path.stat().st_size]:
        kept = path.read_bytes()
        flip(path)
        assert path in checksums.verify(index).broken
        path.write_bytes(kept)
    stored = json.loads((index / INFO_FILE).read_text())
    (index / INFO_FILE).write_text(json.dumps(stored | {"bm25_weight": 0.9}))
    assert list(checksums.verify(index).broken) == [index / INFO_FILE]


def test_a_file_that_is_gone_or_cut_is_found(index: Path) -> None:
    (rows,) = index.glob("snapshot-*/rows.npy")
    rows.write_bytes(rows.read_bytes()[:-1])
    manifest = next((index / "documents.lance" / "_versions").iterdir())
    manifest.unlink()
    assert set(checksums.verify(index).broken) == {rows, manifest}


def test_the_command_names_the_file_and_its_mend_works(index: Path) -> None:
    (embeddings,) = index.glob("snapshot-*/embeddings.npy")
    flip(embeddings)
    done = status(index)
    assert done.returncode == 1 and "1 BROKEN" in done.stdout
    name = embeddings.relative_to(index)
    assert f"{name} is not as it was written" in done.stderr
    assert f"remove the folder {embeddings.parent} and run the feed again" in done.stderr
    shutil.rmtree(embeddings.parent)
    engine = LocalEngine.open(index)
    engine.finish_feed()  # as a feed does that finds nothing to do
    engine.close()
    assert not checksums.verify(index).broken and not checksums.verify(index).notes
    done = status(index, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["verified"]["broken"] == {}


def test_what_an_earlier_version_left_gets_checksums_at_the_next_feed(index: Path) -> None:
    (facts,) = index.glob("snapshot-*/snapshot.json")
    stored = json.loads(facts.read_text())
    del stored["sha256"]
    facts.write_text(json.dumps(stored))
    (index / ".clipsearch.json").unlink()
    (index / "current.json").write_text(json.dumps({"snapshot": facts.parent.name}))
    found = checksums.verify(index)
    assert not found.broken and len(found.notes) == 2
    engine = LocalEngine.open(index)
    engine.finish_feed()
    engine.close()
    assert not checksums.verify(index).notes


def test_a_feed_that_was_stopped_is_no_broken_index(index: Path) -> None:
    engine = LocalEngine.open(index)
    list(engine.feed([Upsert(make_document(90))]))  # and never finished
    engine.close()
    found = checksums.verify(index)
    assert not found.broken and "was stopped" in found.notes[0]


def test_a_broken_ledger_is_named(index: Path) -> None:
    (index / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4000))
    with pytest.raises(EngineError, match=r"ledger\.sqlite is broken"):
        checksums.verify(index).check(index)


def test_saved_info_stays_whole(index: Path) -> None:
    engine = LocalEngine.open(index)
    engine.change_info(lambda info: replace(info, bm25_weight=0.5, encoder_name="é"))
    engine.close()
    assert not checksums.verify(index).broken
    assert LocalEngine.open(index).info.bm25_weight == 0.5


def test_a_disk_that_gives_back_something_else_is_told(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (embeddings,) = index.glob("snapshot-*/embeddings.npy")
    plain = checksums.os.fsync

    def fsync(descriptor: int) -> None:
        plain(descriptor)
        flip(embeddings)

    monkeypatch.setattr(checksums.os, "fsync", fsync)
    with pytest.raises(EngineError, match=r"embeddings\.npy: the disk gives back something else"):
        checksums.snapshot_digests(embeddings.parent)
