"""Words and vectors joined: the best of all matches, of which few are compared by vector.

A weighted sum over all lexical matches is found by Fagin's threshold bound (Fagin, Lotem and Naor,
"Optimal aggregation algorithms for middleware", 2003): a match that is not among the nearest has
at most the last one's cosine, so that only those whose bound reaches the page need their own. Where
these are many, the codes of the vectors tell which of them can reach it at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Embedding
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.vectors.nearest import Comparison
from clipsearch.ranking import RowNumbers, Scores

Fuse = Callable[[Scores, Scores], npt.NDArray[np.float64]]
Near = tuple[RowNumbers, Embedding, Comparison | None]

LEAST_COMPARED = 256
# Of matches that are compared before the bound is known: so many times those that are wanted.
COMPARED_FIRST = 1.25
# Above so many that the bound leaves, the codes are asked before the vectors.
MANY = 2_000
# Vectors whose estimates and cosines tell how one follows from the other, and by how many of the
# standard deviations of what is left a match may lie above its estimate.
SAMPLE = 512
DEVIATIONS = 3.0
_GRID = 1024
_STRIDE = 61


@dataclass(frozen=True, slots=True)
class Fused:
    """Rows that hold the best of all matches, with scores and cosines; how many match in all."""

    rows: RowNumbers
    scores: npt.NDArray[np.float64]
    cosines: Embedding
    total: int


class Query(Protocol):
    """What is asked of a search (`search`)."""

    collection: Collection

    def cosines(self, rows: RowNumbers) -> Embedding:
        """float32 of some rows."""

    def all_products(self) -> Embedding:
        """float32 of every slot, about."""


class Matches:
    """Lexical matches: float32 of every row, above 0 where it matches; `total` of them do."""

    def __init__(self, scores: npt.NDArray[np.float32], total: int) -> None:
        self._scores = scores
        self._total = total

    def best(self, count: int) -> RowNumbers:
        """Rows, ascending, that hold the `count` best matches, and few others."""
        if count >= self._total:
            return np.flatnonzero(self._scores > 0)
        # A sample tells about how high the last of them scores.
        sample = np.sort(self._scores[::_STRIDE])[::-1]
        place = int(count / _STRIDE * 1.2) + 2
        while place < len(sample) and sample[place] > 0:
            rows = np.flatnonzero(self._scores >= sample[place])
            if len(rows) >= count:
                return rows
            place *= 2
        return np.flatnonzero(self._scores > 0)

    def above(self, least: float) -> RowNumbers:
        """Rows, ascending, that match with at least this score."""
        if least <= 0:
            return np.flatnonzero(self._scores > 0)
        return np.flatnonzero(self._scores >= np.float32(least))


def fused(
    query: Query, lexical: npt.NDArray[np.float32], near: Near, fuse: Fuse, count: int
) -> Fused:
    """Rows that hold the best `count` of all matches and of what is near.

    Args:
        query: That is answered.
        lexical: bm25 of every row, above 0 where it matches.
        near: The nearest, with their cosines.
        fuse: Does not fall where bm25 or the cosine rises.
        count: How many are wanted.
    """
    near_rows, near_cosines, compared = near
    matching = int(np.count_nonzero(lexical > 0))
    total = matching + int(np.count_nonzero(lexical[near_rows] <= 0))
    matches = Matches(lexical, matching)
    wanted = max(LEAST_COMPARED, int(count * COMPARED_FIRST))
    if compared is None or matching <= wanted:
        rows = np.union1d(matches.best(matching), near_rows)
        cosines = _cosines(query, rows, near, compared is None)
        return Fused(rows, fuse(lexical[rows], cosines), cosines, total)
    first = np.setdiff1d(_most(lexical, matches.best(wanted), 4 * wanted), near_rows)
    rows = np.concatenate([near_rows, first])
    cosines = np.concatenate([near_cosines, query.cosines(first)])
    scores = fuse(lexical[rows], cosines)
    worst = _kth(scores, count)
    last = float(near_cosines[-1])
    left = np.setdiff1d(matches.above(_least(fuse, last, worst, float(lexical.max()))), rows)
    if len(left) > MANY:
        left = _that_may_reach(query, compared, lexical, left, fuse, (last, worst))
    rows = np.concatenate([rows, left])
    cosines = np.concatenate([cosines, query.cosines(left)])
    return Fused(rows, fuse(lexical[rows], cosines), cosines, total)


def _cosines(query: Query, rows: RowNumbers, near: Near, is_exact: bool) -> Embedding:
    """Of these rows, which hold the near ones; whichever way is quicker."""
    collection = query.collection
    if is_exact and len(rows) * 12 > collection.vectors.size:
        cosines: Embedding = query.all_products()[collection.slots[rows]]
        cosines[np.searchsorted(rows, near[0])] = near[1]
        return cosines
    return query.cosines(rows)


def _most(scores: npt.NDArray[np.float32], rows: RowNumbers, count: int) -> RowNumbers:
    """At most `count` of the rows, those that score highest."""
    if len(rows) <= count:
        return rows
    return rows[np.argpartition(-scores[rows], count - 1)[:count]]


def _kth(scores: npt.NDArray[np.float64], count: int) -> float:
    if len(scores) < count:
        return -np.inf
    return float(np.partition(scores, len(scores) - count)[len(scores) - count])


def _least(fuse: Fuse, cosine: float, worst: float, highest: float) -> float:
    """A bm25 below which no match of this cosine, or less, scores `worst`."""
    grid = np.linspace(0, highest, _GRID)
    scores = fuse(grid, np.full(_GRID, cosine))
    place = int(np.searchsorted(scores, worst)) - 1
    return float(grid[place]) if place > 0 else 0.0


def _that_may_reach(
    query: Query,
    compared: Comparison,
    lexical: npt.NDArray[np.float32],
    rows: RowNumbers,
    fuse: Fuse,
    bounds: tuple[float, float],
) -> RowNumbers:
    """Those of the rows that, by their codes, may score as high as the worst that is wanted.

    Estimates of a sample against its cosines say how the one follows from the other.

    Args:
        query: That is answered.
        compared: The codes.
        lexical: bm25 of every row.
        rows: In question.
        fuse: See `fused`.
        bounds: (the last cosine of the nearest, the score that is to be reached).
    """
    last, worst = bounds
    slots = query.collection.slots[rows].astype(np.int64)
    estimates = compared.estimates(slots)
    sample = np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)
    cosines = query.cosines(rows[sample]).astype(np.float64)
    given = estimates[sample].astype(np.float64)
    slope, level = np.polyfit(given, cosines, 1)
    spread = float(np.std(cosines - (slope * given + level)))
    highest = np.minimum(slope * estimates + level + DEVIATIONS * spread, last)
    return rows[fuse(lexical[rows], highest.astype(np.float32)) >= worst]
