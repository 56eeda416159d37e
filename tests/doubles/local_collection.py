"""Made-up documents for the tests of the embedded engine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipsearch.documents import Document, Embedding
from clipsearch.engine import IndexInfo
from clipsearch.engines.local import engine as local
from clipsearch.engines.local import fusing, search
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.store import Store
from clipsearch.engines.local.vectors.depth import COUNTS, Depths
from clipsearch.engines.local.writing import upkeep
from clipsearch.operations import Operation, Upsert

DIMENSION = 16
WORDS = ("red", "dog", "river", "the", "of", "bridge", "snow", "old", "café", "日本語", "running")
CLASSES = ("Airport", "airport", "beach", "Böğ", "it's", 'a "b"', "x\\y", "%", "")


def make_embedding(random_source: np.random.Generator) -> Embedding:
    vector = random_source.standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_document(number: int, seed: int = 0) -> Document:
    """Made of its number alone; some without caption, tag or number, some twins of others."""
    source = np.random.default_rng((seed, number // 3 if number % 7 == 0 else number))
    captions = tuple(
        " ".join(source.choice(WORDS, int(source.integers(1, 6))))
        for _ in range(int(source.integers(0, 4)))
    )
    tags = {"class": str(source.choice(CLASSES)), "split": "train"} if number % 5 else {}
    numbers = {"year": float(source.integers(2000, 2010)), "Größe": 0.1} if number % 4 else {}
    name = f"photos/{number:04}.jpg"
    return Document(name, captions, f"/{name}", tags, numbers, make_embedding(source))


def feed(engine: LocalEngine, operations: Sequence[Operation]) -> None:
    outcomes = list(engine.feed(operations))
    assert [outcome.error for outcome in outcomes] == [None] * len(operations)
    engine.finish_feed()


def in_segments(folder: Path, documents: Sequence[Document], segments: int) -> LocalEngine:
    """An index of the documents in so many segments, in no order of ids."""
    assert documents[0].embedding is not None
    engine = LocalEngine.create(folder, IndexInfo(documents[0].embedding.size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "due", lambda parts: [])
        for place in range(segments):
            feed(engine, [Upsert(document) for document in documents[place::segments]])
    store = Store(folder)
    assert len(store.state().segments) == segments
    store.close()
    return engine


def through_codes(patch: pytest.MonkeyPatch) -> None:
    """Have every index found through its codes, so deep that nothing is missed.

    What the codes leave out is measured elsewhere; here it would differ from what is expected.
    """
    everything = (10**6,) * len(COUNTS)
    patch.setattr(upkeep, "LEAST_FOR_CODES", 1)
    patch.setattr(upkeep, "measure", lambda *_: Depths(10**9, 0, everything, everything))
    patch.setattr(search, "VECTORS_PER_GATHERED_VECTOR", 0)
    patch.setattr(fusing, "LEAST_COMPARED", 8)
    patch.setattr(fusing, "MANY", 16)
    patch.setattr(fusing, "DEVIATIONS", 100.0)
    patch.setattr(local, "LEAST_FOR_THREADS", 0)


def same(left: Document | None, right: Document | None) -> bool:
    if left is None or right is None:
        return left is right
    if (left.embedding is None) != (right.embedding is None):
        return False
    if left.embedding is not None and not np.array_equal(left.embedding, right.embedding):  # type: ignore[arg-type]
        return False
    return replace(left, embedding=None) == replace(right, embedding=None)
