"""One flipped byte in a file of an index is found, named, and mended by what the sentence says."""

import json
import mmap
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from local_collection import DIMENSION, feed, make_document, make_embedding

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.folder import INDEX_FOLDER, INFO_FILE
from clipsearch.engines.local.writing import upkeep
from clipsearch.filtering import NumberFilter
from clipsearch.modes import MODES, Mode
from clipsearch.operations import Update, Upsert
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
    command = [*CLIPSEARCH, "status", "--index", index, "--verify", *more]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_a_whole_index_is_whole(index: Path) -> None:
    found = checksums.verify(index)
    assert not found.broken and not found.notes
    assert found.files == len(covered(index)) + 1  # and index.json


def covered(index: Path) -> list[Path]:
    return sorted(
        path
        for pattern in ("segment-*", "vectors-*", "codes-*", "documents.sqlite")
        for path in index.glob(pattern)
    )


def test_every_file_of_an_index_is_of_a_name_that_counts_as_ours(index: Path) -> None:
    paths = [path.relative_to(index).as_posix() for path in index.rglob("*") if path.is_file()]
    assert [path for path in paths if not INDEX_FOLDER.writes(path)] == [".clipsearch.json"]


def test_every_flipped_byte_is_found(index: Path) -> None:
    chance = random.Random(0)
    for path in covered(index):
        kept = path.read_bytes()
        places = {0, len(kept) - 1, *(chance.randrange(len(kept)) for _ in range(40))}
        if path.name.startswith("vectors"):
            # Slots 30 to 39 are free since the second feed: what lies there is nobody's.
            places = {place for place in places if place // (4 * DIMENSION) not in range(30, 40)}
        if path.name == "documents.sqlite":
            # What is free in a page of SQLite is nobody's: only what is a document's is looked at.
            places = {kept.index(b"photos/0044.jpg"), kept.index(b'"captions"')}
        for place in places:
            flip(path, place)
            assert list(checksums.verify(index).broken) == [path], (path.name, place)
            path.write_bytes(kept)
    stored = json.loads((index / INFO_FILE).read_text())
    (index / INFO_FILE).write_text(json.dumps(stored | {"bm25_weight": 0.9}))
    assert list(checksums.verify(index).broken) == [index / INFO_FILE]


def test_a_file_that_is_gone_or_cut_is_found(index: Path) -> None:
    segment, vectors, codes = (covered(index)[at] for at in (2, 3, 0))
    segment.write_bytes(segment.read_bytes()[:-1])
    vectors.write_bytes(vectors.read_bytes()[:-1])
    codes.unlink()
    assert set(checksums.verify(index).broken) == {segment, vectors, codes}


@pytest.mark.parametrize("mode", MODES)
def test_a_flipped_byte_is_named_and_never_ranked(index: Path, mode: Mode) -> None:
    """Of every part of a segment: an answer is as it was, or names the file."""
    (segment,) = index.glob("segment-*")
    query = EngineQuery(
        mode, ("dog", "the"), make_embedding(np.random.default_rng(1)), k=50,
        filters=(NumberFilter("year", low=2000),), facets=("class",),
    )  # fmt: skip
    engine = LocalEngine.open(index)
    whole = replace(engine.search(query), seconds=0)
    engine.close()
    kept, named = segment.read_bytes(), 0
    for place in range(64, len(kept), len(kept) // 60):
        flip(segment, place)
        engine = LocalEngine.open(index)
        try:
            assert str(replace(engine.search(query), seconds=0)) == str(whole)
        except EngineError as error:
            assert str(segment) in str(error)
            named += 1
        engine.close()
        segment.write_bytes(kept)
    assert named > 20


def test_a_flipped_byte_of_a_hits_vector_or_document_is_named(index: Path) -> None:
    engine = LocalEngine.open(index)
    query = EngineQuery("vector", (), make_embedding(np.random.default_rng(1)), k=50)
    assert len(engine.search(query).hits) == 50
    (vectors,) = index.glob("vectors-*")
    flip(vectors, 100)
    with pytest.raises(EngineError, match=r"vectors-\d+\.f32: is not as it was written"):
        engine.search(query)
    with pytest.raises(EngineError, match=r"vectors-\d+\.f32: is not as it was written"):
        list(engine.visit(embeddings=True))
    flip(vectors, 100)
    store = index / "documents.sqlite"
    flip(store, store.read_bytes().index(b"photos/0044.jpg"))
    engine.close()
    with pytest.raises(EngineError, match=r"documents\.sqlite: the document with the key"):
        LocalEngine.open(index).search(query)


@pytest.mark.parametrize("kind", ["segment", "codes"])
def test_the_command_names_the_file_and_its_mend_works(index: Path, kind: str) -> None:
    query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(1)))
    engine = LocalEngine.open(index)
    before = replace(engine.search(query), seconds=0)
    engine.close()
    (path,) = index.glob(f"{kind}-*")
    flip(path)
    done = status(index)
    assert done.returncode == 1
    assert f"{path.name} is not as it was written" in done.stderr
    assert f"remove {path} and run the feed again" in done.stderr
    path.unlink()
    engine = LocalEngine.open(index)
    assert replace(engine.search(query), seconds=0) == before, "from the documents, for now"
    engine.finish_feed()  # as a feed does that finds nothing to do
    assert replace(engine.search(query), seconds=0) == before
    engine.close()
    assert not checksums.verify(index).broken and not checksums.verify(index).notes
    done = status(index, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["verified"]["broken"] == {}


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


@pytest.mark.parametrize(("kind", "place"), [("segment", 700), ("vectors", 31 * 4 * DIMENSION)])
def test_a_disk_that_gives_back_something_else_is_told(
    index: Path, kind: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine.open(index)
    list(engine.feed([Upsert(make_document(number, seed=2)) for number in range(20, 30)]))
    plain = upkeep.let_go

    def broken(path: Path, *places: Any) -> None:
        plain(path, *places)
        if path.name.startswith(kind):
            flip(path, place)

    monkeypatch.setattr(upkeep, "let_go", broken)
    with pytest.raises(EngineError, match="the disk gives back"):
        engine.finish_feed()


def test_only_what_a_feed_wrote_is_read_from_the_disk_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest stays in memory, where searches look for it."""
    let_go: list[tuple[str, int, int]] = []

    def note(file: int, start: int, length: int, advice: int) -> None:
        number = os.fstat(file).st_ino
        (name,) = [path.name for path in index.iterdir() if path.stat().st_ino == number]
        if name.startswith("vectors"):
            let_go.append((name, start, length))

    monkeypatch.setattr(os, "posix_fadvise", note, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", 4, raising=False)
    engine = LocalEngine.open(index)
    list(engine.feed([Update(make_document(3).id, captions=("another caption",))]))
    engine.finish_feed()
    assert let_go == []
    list(engine.feed([Upsert(make_document(number, seed=2)) for number in (41, 42)]))
    engine.finish_feed()
    engine.close()
    assert let_go and all(length <= 3 * mmap.PAGESIZE for _, _, length in let_go)
