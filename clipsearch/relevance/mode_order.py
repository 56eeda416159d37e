"""The order of all documents in a mode, from their bm25 and cosines: the ranking by brute force."""

from dataclasses import dataclass

import numpy as np

from clipsearch.engine import DEFAULT_CANDIDATES, RERANK_COUNT
from clipsearch.modes import RANKINGS, Mode, Weights
from clipsearch.ranking import FUSIONS, RowNumbers, best_rows, closeness
from finetune.arrays import Float32, Float64


@dataclass(frozen=True, slots=True)
class Scored:
    """The first rows of an order.

    Attributes:
        rows: int64[m], best first; equal scores by row.
        scores: float64[m].
    """

    rows: RowNumbers
    scores: Float64


def order_in(
    mode: Mode,
    bm25: Float32,
    cosine: Float32 | None,
    weights: Weights,
    count: int,
    candidates: int = DEFAULT_CANDIDATES,
    near: RowNumbers | None = None,
) -> Scored:
    """Rank as an engine does, and return the first `count` rows (`clipsearch.ranking`).

    Args:
        mode: The ranking.
        bm25: float32[n] of all documents, 0 where no word matches.
        cosine: float32[n] of all, -inf for one without an embedding; None for a mode of words.
        weights: Of bm25 and vector, in the modes that weigh.
        count: At most so many.
        candidates: Nearest by vector that a hybrid adds to the matches by word.
        near: These, where they are known: best_rows(cosine, candidates).
    """
    ranking = RANKINGS[mode]
    if not ranking.needs_vector:
        matching = np.flatnonzero(bm25 > 0)
        rows = best_rows(bm25[matching], count, matching)
        return Scored(rows, bm25[rows].astype(np.float64))
    assert cosine is not None, f"{mode} needs the cosines"
    if not ranking.uses_words:
        rows = best_rows(cosine, count)
        return Scored(rows, closeness(cosine[rows].astype(np.float64)).astype(np.float64))
    near = best_rows(cosine, candidates) if near is None else near
    if ranking.reranks is None:
        return _fused(mode, bm25, cosine, weights, count, near)
    first = _fused(ranking.reranks, bm25, cosine, weights, RERANK_COUNT, near).rows
    scores = FUSIONS[mode](bm25[first], written(cosine[first]), weights)
    order = np.lexsort((first, -scores))[:count]
    return Scored(first[order], scores[order])


def _fused(
    mode: Mode, bm25: Float32, cosine: Float32, weights: Weights, count: int, near: RowNumbers
) -> Scored:
    matches = bm25 > 0
    matches[near] = True
    rows = np.flatnonzero(matches)
    if not RANKINGS[mode].weighted:
        weights = Weights(1, 1)
    scores = FUSIONS[mode](bm25[rows], written(cosine[rows]), weights)
    best = best_rows(scores, count)
    return Scored(rows[best], scores[best])


def written(cosine: Float32) -> Float32:
    """Return the cosines, 0 for a document without embedding, as on Vespa where words find it."""
    return np.where(np.isfinite(cosine), cosine, np.float32(0))
