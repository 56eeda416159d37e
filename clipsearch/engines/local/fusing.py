"""Words and vectors joined: the best of all matches, of which few are compared by vector.

A weighted sum over all lexical matches is found by Fagin's threshold bound (Fagin, Lotem and Naor,
"Optimal aggregation algorithms for middleware", 2003): a match that is not among the nearest has
at most the last one's cosine, so that only those whose bound reaches the page need their own. Where
these are many, the codes of the vectors tell which of them can reach it at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Embedding
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.selection import highest
from clipsearch.engines.local.vectors.nearest import Comparison
from clipsearch.ranking import RowNumbers, Scores

Fuse = Callable[[Scores, Scores], npt.NDArray[np.float64]]

LEAST_COMPARED = 64
"""Of matches that are compared before the bound is known."""
MANY = 600
"""Above so many that the bound leaves, the codes are asked before the vectors."""
DEVIATIONS = 2.0
"""By how many standard deviations a match may lie above its estimate."""
SAMPLE = 128
"""Vectors whose estimates and cosines tell how one follows from the other."""
_SCORED = 4096
# So many distances are a step of the bound, which is that of its nearest.
_DISTANCES = 4
# Cosines that are computed in another order differ by less than this.
_ROUNDING = 4e-6
# A bm25 is found among so many, so many times: a call of NumPy costs as much for 64 as for one.
_PARTS = 64
_NARROWED = 2


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest by vector, in order, with their cosines.

    Attributes:
        rows, cosines: Of the nearest.
        compared: What the codes say; None where every vector was compared.
        other_rows, other_cosines: That were compared on the way and are not among the nearest.
    """

    rows: RowNumbers
    cosines: Embedding
    compared: Comparison | None
    other_rows: RowNumbers
    other_cosines: Embedding

    def above(self, least: float) -> "Near":
        """Return those of the nearest whose cosine is at least `least`."""
        kept = self.cosines >= least
        compared = self.compared if kept.any() else None
        return replace(self, rows=self.rows[kept], cosines=self.cosines[kept], compared=compared)


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
        """Return the cosines of some rows, float32."""

    def all_products(self) -> Embedding:
        """Return the cosine of every slot, float32, to about 1e-6."""


def fused(
    query: Query, lexical: npt.NDArray[np.float32], near: Near, fuse: Fuse, count: int
) -> Fused:
    """Return rows that hold the best `count` of all matches and of what is near.

    Args:
        query: That is answered.
        lexical: bm25 of every row, above 0 where it matches.
        near: The nearest, with their cosines.
        fuse: Does not fall where bm25 or the cosine rises.
        count: How many are wanted.
    """
    compared = near.compared
    matches = lexical > 0
    matching = int(np.count_nonzero(matches))
    total = matching + int(np.count_nonzero(~matches[near.rows]))
    if compared is None or matching <= LEAST_COMPARED:
        matches[near.rows] = True
        rows = np.flatnonzero(matches)
        if len(rows) * 12 > query.collection.vectors.size:
            rows = _that_may_be_best(query, lexical, rows, fuse, count)
        cosines = query.cosines(rows)
        return Fused(rows, fuse(lexical[rows], cosines), cosines, total)
    found = _Found(query, lexical, fuse, count)
    found.take(near.rows, near.cosines)
    matching_too = matches[near.other_rows]
    found.take(near.other_rows[matching_too], near.other_cosines[matching_too])
    if count <= MANY:
        first = max(count, LEAST_COMPARED)
        found.add(_most(lexical, highest(lexical, first), 2 * first))
    last = float(near.cosines[-1])
    least = _least(fuse, np.array([last]), found.worst(), float(lexical.max()))[0]
    left = np.flatnonzero((lexical >= least if least > 0 else matches) & ~found.seen)
    if len(left) > MANY:
        left = _that_may_reach(found, compared, left, last)
    found.add(left)
    return Fused(found.rows, found.scores, found.cosines, total)


def fused_above(
    query: Query, lexical: npt.NDArray[np.float32], near: Near, fuse: Fuse, least: float
) -> Fused:
    """Return all rows that score at least `least`; the arguments are those of `fused`.

    What is not among the nearest has at most the last one's cosine: only what could reach `least`
    with that is compared. The cost grows with these, and not with the hits of a page.
    """
    rows, cosines = near.rows, near.cosines
    matches = lexical > 0
    matches[rows] = False
    others = np.flatnonzero(matches)
    if len(rows):
        highest_cosine = np.full(len(others), float(cosines[-1]) + _ROUNDING)
        others = others[fuse(lexical[others], highest_cosine) >= least]
    rows = np.concatenate([rows, others])
    cosines = np.concatenate([cosines, query.cosines(others)])
    scores = fuse(lexical[rows], cosines)
    kept = scores >= least
    return Fused(rows[kept], scores[kept], cosines[kept], int(np.count_nonzero(kept)))


class _Found:
    """Rows that were compared exactly, and how high a match must score to be wanted."""

    def __init__(
        self, query: Query, lexical: npt.NDArray[np.float32], fuse: Fuse, count: int
    ) -> None:
        self.query, self.lexical, self.fuse, self.count = query, lexical, fuse, count
        self.seen = np.zeros(len(lexical), bool)
        self.rows = np.zeros(0, np.int64)
        self.cosines = np.zeros(0, np.float32)
        self.scores = np.zeros(0)

    def add(self, rows: RowNumbers) -> None:
        """Compare these, unless they are there already."""
        rows = rows[~self.seen[rows]]
        self.take(rows, self.query.cosines(rows))

    def take(self, rows: RowNumbers, cosines: Embedding) -> None:
        """Take rows over that are not there, with their cosines."""
        self.seen[rows] = True
        self.rows = np.concatenate([self.rows, rows])
        self.cosines = np.concatenate([self.cosines, cosines])
        self.scores = np.concatenate([self.scores, self.fuse(self.lexical[rows], cosines)])

    def worst(self) -> float:
        """Return the score that the last of those wanted has by now; -inf while they are few."""
        if len(self.scores) < self.count:
            return -np.inf
        place = len(self.scores) - self.count
        return float(np.partition(self.scores, place)[place])


@dataclass(frozen=True, slots=True)
class _Line:
    """How cosines follow from estimates: slope, level, and the deviation that is left."""

    slope: float
    level: float
    deviation: float

    @classmethod
    def through(cls, estimates: npt.NDArray[np.number], cosines: Embedding) -> "_Line":
        given, wanted = estimates.astype(np.float64), cosines.astype(np.float64)
        variance = float(given.var())
        slope = 0.0
        if variance > 0:
            slope = float(((given - given.mean()) * (wanted - wanted.mean())).mean()) / variance
        level = float(wanted.mean()) - slope * float(given.mean())
        return cls(slope, level, float(np.std(wanted - (slope * given + level))))

    def at(self, estimates: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
        return self.slope * estimates.astype(np.float64) + self.level


def _that_may_reach(
    found: _Found, compared: Comparison, rows: RowNumbers, last: float
) -> RowNumbers:
    """Return those of the rows that, by their codes, may score as high as is wanted.

    Those that by their signs score highest are compared exactly on the way, so that what is wanted
    is known; then whoever may lie above that is asked by the query's steps, and compared.
    """
    query, fuse = found.query, found.fuse
    words, slots = found.lexical.take(rows), query.collection.slots.take(rows)
    distances = compared.distances.take(slots, mode="clip")
    # Of the type that `take` takes without copying it, since it is taken by several times.
    step_of = (distances // _DISTANCES).astype(np.intp)

    def reaching(at_least: npt.NDArray[np.float32]) -> RowNumbers:
        """Return the places in `rows` whose bm25 is at least that of their step of distance."""
        return np.flatnonzero(words >= at_least.take(step_of, mode="clip"))

    sample = np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)
    line = _Line.through(distances[sample], query.cosines(rows[sample]))
    steps = np.arange(0, compared.signs + 1, _DISTANCES)
    by_distance = np.minimum(line.at(steps), last)
    top = float(words.max())
    if found.count > LEAST_COMPARED:
        stride = max(1, len(rows) // _SCORED)
        scored = np.sort(fuse(words[::stride], by_distance[step_of[::stride]]))[::-1]
        place = int(found.count / stride * 1.1) + 1
        best = np.zeros(0, np.int64)
        while len(best) + len(found.rows) < found.count and place < len(scored):
            best = reaching(_least(fuse, by_distance, float(scored[place]), top))
            place = place * 5 // 4 + 1
        found.add(rows[best])
    worst = found.worst()
    above = np.minimum(by_distance + DEVIATIONS * line.deviation, last)
    kept = reaching(_least(fuse, above, worst, top))
    kept = kept[~found.seen[rows[kept]]]
    if len(kept) <= MANY:
        return rows[kept]
    estimates = compared.estimates(slots[kept].astype(np.int64))
    places = np.linspace(0, len(kept) - 1, SAMPLE).astype(np.int64)
    line = _Line.through(estimates[places], query.cosines(rows[kept[places]]))
    highest_cosines = np.minimum(line.at(estimates) + DEVIATIONS * line.deviation, last)
    return rows[kept[fuse(words[kept], highest_cosines) >= worst]]


def _that_may_be_best(
    query: Query,
    lexical: npt.NDArray[np.float32],
    rows: RowNumbers,
    fuse: Fuse,
    count: int,
) -> RowNumbers:
    """Return those of the rows that are the best `count` by products of all vectors, and ties."""
    products = query.all_products()[query.collection.slots[rows]]
    scores = fuse(lexical[rows], products)
    if count >= len(rows):
        return rows
    place = len(rows) - count
    kth = np.partition(scores, place)[place]
    # How far a product may be from the cosine, at the score of the last.
    there = np.array([lexical[rows[scores >= kth]].max(initial=0)])
    margin = float(np.diff(fuse(np.repeat(there, 2), np.array([0.5, 0.5 + 5e-5])))[0]) + 1e-9
    best: RowNumbers = rows[scores >= kth - margin]
    return best


def _most(scores: npt.NDArray[np.float32], rows: RowNumbers, count: int) -> RowNumbers:
    """Return at most `count` of the rows, those that score highest."""
    if len(rows) <= count:
        return rows
    return rows[np.argpartition(-scores[rows], count - 1)[:count]]


def _least(
    fuse: Fuse, cosines: npt.NDArray[np.float64], worst: float, top: float
) -> npt.NDArray[np.float32]:
    """Return for each cosine the bm25 from which on a match scores `worst`, a little below it.

    `top` is the highest bm25 that there is; above it where no match does.
    """
    if not np.isfinite(worst):
        return np.zeros(len(cosines), np.float32)
    step = float(top) * 1.001 + 1e-6
    never = fuse(np.full(len(cosines), step), cosines) < worst
    low = np.zeros(len(cosines))
    for _ in range(_NARROWED):
        step /= _PARTS
        tried = low[:, None] + step * np.arange(_PARTS)
        scores = fuse(tried.ravel(), np.repeat(cosines, _PARTS)).reshape(tried.shape)
        low += step * np.maximum(np.count_nonzero(scores < worst, axis=1) - 1, 0)
    low[never] = np.inf
    return low.astype(np.float32)
