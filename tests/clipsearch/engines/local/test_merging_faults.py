"""Merging, moving and measuring while processes are killed, disks fill up and others search."""

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import local_collection
import numpy as np
import pytest
from local_collection import DIMENSION, make_document, make_embedding

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.vectors import blocks
from clipsearch.engines.local.writing import placing, upkeep, write
from clipsearch.modes import MODES
from clipsearch.operations import Delete, Operation, Update, Upsert
from finetune.errors import EngineError

ROUNDS = 3
DOCUMENTS = 100
STEPS = ("fsync", "transaction", "remove", "segment", "vectors", "codes")


@contextmanager
def small() -> Iterator[None]:
    """Have few documents go through all: merges, moves of vectors, new centres, measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "BATCH_OPERATIONS", 20)
        patch.setattr(write, "LEAST_FOR_CENTRE", 10)
        patch.setattr(upkeep, "SMALL", 10)
        patch.setattr(upkeep, "MOST_SEGMENTS", 3)
        patch.setattr(upkeep, "MOST_DELETIONS", 1)
        patch.setattr(upkeep, "LEAST_FREE", 4)
        patch.setattr(upkeep, "LEAST_FOR_CODES", 30)
        patch.setattr(upkeep, "MOST_DRIFT", 0.0)
        for module in (blocks, placing):
            patch.setattr(module, "BLOCK", 32)
        yield


def operations(round: int) -> list[Operation]:
    """Of one feed; whatever came of the same feeds before, they end alike."""
    chance = random.Random(round)
    changed = chance.sample(range(DOCUMENTS), DOCUMENTS // 2)
    found: list[Operation] = [Upsert(make_document(number, round)) for number in changed]
    found += [Update(each.id, captions=(f"round {round} dog",)) for each in found[:10]]
    gone = chance.sample(range(DOCUMENTS), DOCUMENTS // 5)
    return found + [Delete(make_document(number).id) for number in gone]


def feed_all(folder: Path) -> None:
    engine = LocalEngine.open(folder)
    for round in range(ROUNDS):
        for outcome in engine.feed(operations(round)):
            assert outcome.error is None, outcome.error
        engine.finish_feed()
    engine.close()


def said(folder: Path) -> dict[str, Any]:
    """All documents, and what queries of every mode answer."""
    engine = LocalEngine.open(folder)
    found: dict[str, Any] = {}
    for document in engine.visit(embeddings=True):
        assert document.embedding is not None
        vector = document.embedding.tobytes()
        found[document.id] = (replace(document, embedding=None), vector)
    for mode in MODES:
        vector = make_embedding(np.random.default_rng(5))
        page = engine.search(EngineQuery(mode, ("dog", "the"), vector, k=30, exact=True))
        found[mode] = (page.total, [(hit.document.id, round(hit.score, 5)) for hit in page.hits])
    engine.close()
    return found


@contextmanager
def at_steps(strike: Callable[[str], None]) -> Iterator[None]:
    """Have `strike` called before and after each step that changes the disk."""

    def around(name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            strike(name)
            found = action(*arguments, **options)
            strike(name)
            return found

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", around("fsync", os.fsync))
        patch.setattr(Path, "unlink", around("remove", Path.unlink))
        for module in (write, upkeep):
            patch.setattr(module, "write_sections", around("segment", module.write_sections))
            patch.setattr(module, "write_vectors", around("vectors", module.write_vectors))
            patch.setattr(module, "write_codes", around("codes", module.write_codes))
            patch.setattr(module, "put_facts", around("transaction", module.put_facts))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What feeds without interruption leave, and the steps that they take."""
    folder = tmp_path_factory.mktemp("whole") / "photos.index"
    LocalEngine.create(folder, IndexInfo(DIMENSION)).close()
    steps: list[str] = []
    with small(), at_steps(steps.append):
        feed_all(folder)
    assert {*STEPS} == {*steps}
    with small():
        return said(folder), steps


def killed_at(place: int, folder: Path) -> None:
    """Feed in a process that is killed at its step number `place`."""
    child = os.fork()
    if not child:
        left = [place]

        def strike(_: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with small(), at_steps(strike):
                feed_all(folder)
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def check_killed(place: int, whole: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    LocalEngine.create(folder, IndexInfo(DIMENSION)).close()
    killed_at(place, folder)
    with small():
        said(folder)  # what is there can be read
        assert not checksums.verify(folder).broken
        feed_all(folder)
        assert said(folder) == whole[0]
        assert not checksums.verify(folder).broken and not checksums.verify(folder).notes
        engine = LocalEngine.open(folder)
        assert upkeep.stray_files(folder, _state(folder)) == []
        engine.close()


def _state(folder: Path) -> Any:
    from clipsearch.engines.local.store import Store

    store = Store(folder)
    state = store.state()
    store.close()
    return state


def places_of(step: str, steps: list[str], count: int) -> list[int]:
    found = [place for place, name in enumerate(steps) if name == step]
    return sorted(random.Random(step).sample(found, min(count, len(found))))


@pytest.mark.parametrize("step", ["transaction", "segment"])
def test_killed_at_any_step_of_a_feed_or_a_merge(
    step: str, whole: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    (place,) = places_of(step, whole[1], 1)
    check_killed(place, whole, tmp_path / "photos.index")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_forty_steps_of_each_kind(
    step: str, whole: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    for place in places_of(step, whole[1], 40):
        check_killed(place, whole, tmp_path / f"photos-{place}.index")


def check_full(place: int, whole: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    LocalEngine.create(folder, IndexInfo(DIMENSION)).close()
    left = [place]

    def strike(name: str) -> None:
        left[0] -= 1
        if left[0] < 0 and name != "remove":
            raise OSError(errno.ENOSPC, "No space left on device")

    with small():
        with at_steps(strike), pytest.raises(EngineError, match="the disk is full; free some"):
            feed_all(folder)
        assert not checksums.verify(folder).broken
        feed_all(folder)
        assert said(folder) == whole[0]
        assert not checksums.verify(folder).broken


@pytest.mark.parametrize("step", ["fsync"])
def test_a_disk_that_is_full_at_any_step(
    step: str, whole: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    (place,) = places_of(step, whole[1], 1)
    check_full(place, whole, tmp_path / "photos.index")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [step for step in STEPS if step != "remove"])
def test_a_disk_that_is_full_at_forty_steps_of_each_kind(
    step: str, whole: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    for place in places_of(step, whole[1], 40):
        check_full(place, whole, tmp_path / f"photos-{place}.index")


MERGE_FOREVER = """
import sys
sys.path[:0] = {path!r}
from dataclasses import replace
from pathlib import Path
import local_collection as t
from clipsearch.operations import Upsert
from clipsearch.engines.local.engine import LocalEngine
engine = LocalEngine.open(Path(sys.argv[1]))
for version in range(10_000):
    changed = [
        Upsert(replace(t.make_document(n, version), captions=(f"needle version{{version}}",)))
        for n in range(40)
    ]
    assert all(outcome.error is None for outcome in engine.feed(changed))
    engine.finish_feed()
    print(version, flush=True)
"""


def needles(version: int) -> list[Document]:
    return [
        replace(make_document(n, version), captions=(f"needle version{version}",))
        for n in range(40)
    ]


def test_one_process_merges_and_another_searches(tmp_path: Path) -> None:
    """Each page is of one moment: all hits are of one version, with the vectors of that."""
    folder = tmp_path / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION))
    list(engine.feed([Upsert(make_document(n)) for n in range(40, 400)]))
    list(engine.feed(map(Upsert, needles(0))))
    engine.finish_feed()
    code = MERGE_FOREVER.format(path=[str(Path(local_collection.__file__).parent)])
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    seen: set[str] = set()
    try:
        vector = make_embedding(np.random.default_rng(0))
        for _ in range(60):
            page = engine.search(EngineQuery("hybrid", ("needl",), vector, k=40, bm25_weight=10.0))
            captions = {hit.document.captions[0] for hit in page.hits if hit.bm25}
            assert sum(bool(hit.bm25) for hit in page.hits) == 40 and len(captions) == 1
            (caption,) = captions
            seen.add(caption)
            expected = {d.id: d for d in needles(int(caption.split("version")[1]))}
            for hit in page.hits:
                if hit.bm25:
                    embedding = expected[hit.document.id].embedding
                    assert embedding is not None
                    assert hit.cosine == pytest.approx(float(embedding @ vector), abs=1e-5)
    finally:
        writer.kill()
        writer.communicate()
    assert len(seen) > 1 and writer.returncode == -signal.SIGKILL
    engine.close()
