"""Made-up documents for the tests of the embedded engine."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipsearch.documents import Document, Embedding
from clipsearch.engine import Operation
from clipsearch.engines.local.engine import LocalEngine

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


def same(left: Document | None, right: Document | None) -> bool:
    if left is None or right is None:
        return left is right
    if (left.embedding is None) != (right.embedding is None):
        return False
    if left.embedding is not None and not np.array_equal(left.embedding, right.embedding):  # type: ignore[arg-type]
        return False
    return replace(left, embedding=None) == replace(right, embedding=None)
