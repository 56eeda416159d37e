"""What each mode answers to each query: asked of the index itself, or of its captions in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.modes import RANKINGS, Mode
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.mode_order import order_in
from clipsearch.relevance.query_weights import weights_in
from clipsearch.search.search import Search
from clipsearch.text import tokens
from finetune.arrays import Float32, Float64, Int64
from finetune.errors import EngineError

DEPTH = 100
"""Hits of each answer that count."""

SHOWN = 4
"""Hits of each answer that are kept to be shown."""

TIMED = 100
"""Queries, at most, whose time is taken where the captions are ranked in memory."""

# Cosines of so many (query, document) pairs are held at once.
_BLOCK = 16_000_000

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ShownHit:
    """A hit, as the report shows it: its id and the parts of its score; None where it has none."""

    id: str
    score: float
    bm25: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class ModeRun:
    """What a mode answered.

    Attributes:
        mode: The ranking.
        grades: int64[q, DEPTH], of what stands at each rank, 0 where it was not judged.
        shown: Of each query, its first SHOWN hits.
        seconds: float64[t], inside the engine, of the queries whose time was taken.
    """

    mode: Mode
    grades: Int64
    shown: tuple[tuple[ShownHit, ...], ...]
    seconds: Float64


def ask_index(
    search: Search, queries: Sequence[JudgedQuery], modes: Sequence[Mode], advance: Advance
) -> list[ModeRun]:
    """Ask the index each query in each mode, as users do, for DEPTH hits.

    Raises EngineError where an answer is partial: its figures would be of another collection.
    """
    runs = []
    for mode in modes:
        grades = np.zeros((len(queries), DEPTH), np.int64)
        shown, seconds = [], []
        for number, query in enumerate(queries):
            page = search.query(query.text, mode=mode, k=DEPTH, plain=True)
            if page.partial is not None:
                raise EngineError(
                    f"{search.engine.target}: the answer to {query.text!r} is not whole"
                    f" ({page.partial}); measure again when it is"
                )
            for rank, hit in enumerate(page.hits):
                grades[number, rank] = query.grades.get(hit.document.id, 0)
            shown.append(
                tuple(
                    ShownHit(hit.document.id, hit.score, hit.bm25, hit.cosine)
                    for hit in page.hits[:SHOWN]
                )
            )
            seconds.append(page.seconds)
            advance(1)
        runs.append(ModeRun(mode, grades, tuple(shown), np.array(seconds)))
    return runs


def rank_captions(
    search: Search,
    collection: Collection,
    queries: Sequence[JudgedQuery],
    modes: Sequence[Mode],
    advance: Advance,
) -> list[ModeRun]:
    """Rank all documents for each query, without what it says is not written.

    The order is that of the engines, worked out over all documents, so the time of an answer is
    taken from the index itself, for at most TIMED of the queries, asked as they stand.
    """
    info = search.info
    grades = {mode: np.zeros((len(queries), DEPTH), np.int64) for mode in modes}
    shown: dict[Mode, list[tuple[ShownHit, ...]]] = {mode: [] for mode in modes}
    for number, (query, cosine) in enumerate(with_cosines(search, collection, queries, modes)):
        words, removed = tokens(query.text, info.language), query.removed or {}
        bm25 = collection.bm25(words, removed)
        for mode in modes:
            weights = weights_in(mode, info, collection, words, removed)
            order = order_in(mode, bm25, cosine, weights, DEPTH)
            ids = [collection.documents[row].id for row in order.rows.tolist()]
            grades[mode][number, : len(ids)] = [query.grades.get(id_, 0) for id_ in ids]
            ranking = RANKINGS[mode]
            shown[mode].append(
                tuple(
                    ShownHit(
                        id_,
                        float(score),
                        float(bm25[row]) if ranking.uses_words else None,
                        float(cosine[row]) if ranking.needs_vector and cosine is not None else None,
                    )
                    for id_, row, score in zip(
                        ids[:SHOWN], order.rows.tolist(), order.scores.tolist(), strict=False
                    )
                )
            )
            advance(1)
    return [
        ModeRun(mode, grades[mode], tuple(shown[mode]), _seconds(search, queries, mode))
        for mode in modes
    ]


def with_cosines(
    search: Search,
    collection: Collection,
    queries: Sequence[JudgedQuery],
    modes: Sequence[Mode],
) -> Iterator[tuple[JudgedQuery, Float32 | None]]:
    """Yield each query with its cosines to all documents, float32[n].

    They are None where no mode needs them.
    """
    if not any(RANKINGS[mode].needs_vector for mode in modes):
        yield from ((query, None) for query in queries)
        return
    at_once = max(1, min(256, _BLOCK // max(1, len(collection))))
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once]
        cosines = collection.cosines(search.encoder.encode_texts([each.text for each in block]))
        yield from zip(block, cosines, strict=True)


def _seconds(search: Search, queries: Sequence[JudgedQuery], mode: Mode) -> Float64:
    step = -(-len(queries) // TIMED)
    timed = [search.query(each.text, mode=mode, plain=True).seconds for each in queries[::step]]
    return np.array(timed)
