"""Learn the weights of a hybrid from judged queries: a grid, then a golden section search.

Only the proportion of the two weights counts, so one number is looked for: the logarithm of the
vector's weight over bm25's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clipsearch.engine import DEFAULT_BM25_WEIGHT, DEFAULT_CANDIDATES, RERANK_COUNT
from clipsearch.modes import RANKINGS, Mode, Weights
from clipsearch.ranking import RowNumbers, best_rows
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.measures import graded_figures, ideal_grades
from clipsearch.relevance.mode_order import order_in, written
from clipsearch.relevance.query_weights import most_of
from clipsearch.relevance.runs import DEPTH, with_cosines
from clipsearch.reordering import Reorder
from clipsearch.search.search import Search
from clipsearch.text import tokens
from clipsearch.weighing import share_sum_told, weighted_sum_told
from finetune.arrays import Float32, Float64, Int64

KEPT_ROWS = 1000
"""Documents of a query, by words and by vector each, that learning looks at."""

GRID = tuple(np.linspace(-2.0, 4.0, 25).tolist())
"""Of log10(vector weight / bm25 weight): cosines differ by hundredths, bm25 by units, and a
proportion may be wrong by as much again either way."""

Z_SCORE_GRID = tuple(np.linspace(-2.0, 2.0, 17).tolist())
"""The same of z-scores, whose scale is one: at either end one part decides nearly alone."""

RRF_KS = (1, 2, 5, 10, 20, 40, 60, 100, 200, 500)
"""Of reciprocal rank fusion: with 1 the first ranks count for nearly all, with 500 for little
more than the next."""

_STEPS = 10
_GOLDEN = (math.sqrt(5) - 1) / 2
_DIGITS = 4
# A share reaches 1 and cosines differ by tenths or hundredths: with the grid's ends, from 1000 to 1
# over it (MAX_SHARE_WEIGHT), one part decides alone.
_SHARE_SHIFT = 1.0


@dataclass(frozen=True, slots=True)
class ScoredQuery:
    """What learning needs of a query.

    Attributes:
        bm25: float32[m], of the documents that are looked at, ascending by id.
        cosine: float32[m].
        grades: int64[m], of the same.
        ideal: int64[1, 10], see `clipsearch.relevance.measures.ideal_grades`.
        cluster: See JudgedQuery.
        most: That bm25 could reach.
        near: Rows of the nearest by vector, which a hybrid adds to the matches by word; they are
            the same whatever the weights are, and dozens of weights are tried.
    """

    bm25: Float32
    cosine: Float32
    grades: Int64
    ideal: Int64
    cluster: int
    most: float = 1.0
    near: RowNumbers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "near", best_rows(self.cosine, DEFAULT_CANDIDATES))


@dataclass(frozen=True, slots=True)
class Contender:
    """A mode with its weights: one way to rank that is held against others.

    Attributes:
        mode: The ranking.
        weights: Of bm25 and vector; what the mode does not weigh does not count.
        of_share: The first weight is that of bm25 over the most that a query could reach.
        reorder: How the first hits are put into another order; None where they are not.
    """

    mode: Mode
    weights: Weights
    of_share: bool = False
    reorder: Reorder | None = None

    @property
    def told(self) -> str:
        """The mode and, where it has some, its weights, for people."""
        if self.reorder is not None:
            return f"{self.mode}, reordered by {self.reorder.told}"
        if not RANKINGS[self.mode].weighted:
            return self.mode
        if self.mode == "hybrid-rrf":
            summed = weighted_sum_told(self.weights)
            return f"{self.mode} (k {self.weights.rrf_k}, of the first by {summed})"
        if self.of_share:
            return f"{self.mode} ({share_sum_told(self.weights.bm25)})"
        return f"{self.mode} ({weighted_sum_told(self.weights)})"

    def weights_for(self, most: float) -> Weights:
        """Return the weights of bm25 and vector for a query that could reach `most`."""
        return (
            self.weights._replace(bm25=self.weights.bm25 / most) if self.of_share else self.weights
        )

    def first_rows(self, query: ScoredQuery, count: int) -> RowNumbers:
        """Return the first `count` rows of a query's documents, best first."""
        rows = self._rows(query, count if self.reorder is None else RERANK_COUNT)
        if self.reorder is None:
            return rows
        scores = self.reorder.scores(query.bm25[rows], written(query.cosine[rows]))
        return rows[np.lexsort((rows, -scores))[:count]]

    def _rows(self, query: ScoredQuery, count: int) -> RowNumbers:
        weights = self.weights_for(query.most)
        return order_in(self.mode, query.bm25, query.cosine, weights, count, near=query.near).rows


def scored_query(
    collection: Collection, query: JudgedQuery, bm25: Float32, cosine: Float32, most: float
) -> ScoredQuery:
    """Keep of all documents those that a hybrid may rank first, and those that are right.

    They are the first KEPT_ROWS by words and by vector: what is in neither list reaches the first
    ten of a weighted sum only where a thousand are better in each part alone.
    """
    words = np.flatnonzero(bm25 > 0)
    by_words = best_rows(bm25[words], KEPT_ROWS, words)
    by_vector = best_rows(cosine, max(KEPT_ROWS, DEFAULT_CANDIDATES))
    right = [collection.rows[id_] for id_ in query.right]
    rows = np.unique(np.concatenate([by_words, by_vector, np.array(right, np.int64)]))
    ids = [collection.documents[row].id for row in rows.tolist()]
    return ScoredQuery(
        bm25=bm25[rows],
        cosine=cosine[rows],
        grades=np.array([query.grades.get(id_, 0) for id_ in ids], np.int64),
        ideal=ideal_grades([query.grades]),
        cluster=query.cluster,
        most=most,
    )


def scored_queries(
    search: Search, collection: Collection, queries: Sequence[JudgedQuery]
) -> Iterator[ScoredQuery]:
    """Ask each query of a collection in memory; see `scored_query`."""
    for query, cosine in with_cosines(search, collection, queries, ("hybrid",)):
        assert cosine is not None
        yield scored_caption(collection, query, cosine, search.info.language)


def scored_caption(
    collection: Collection, query: JudgedQuery, cosine: Float32, language: str
) -> ScoredQuery:
    """Score a query of a collection in memory, whose cosines are known; see `scored_query`."""
    words, removed = tokens(query.text, language), query.removed or {}
    bm25 = collection.bm25(words, removed)
    return scored_query(collection, query, bm25, cosine, most_of(collection, words, removed))


def figures_of(queries: Sequence[ScoredQuery], contender: Contender, figure: str) -> Float64:
    """Work out what each query counts for in a figure of ten hits, float64[q]."""
    grades = np.zeros((len(queries), DEPTH), np.int64)
    for number, query in enumerate(queries):
        rows = contender.first_rows(query, 10)
        grades[number, : len(rows)] = query.grades[rows]
    return graded_figures(grades, np.concatenate([query.ideal for query in queries]))[figure]


def learn_weights(
    queries: Sequence[ScoredQuery], mode: Mode, figure: str, *, of_share: bool = False
) -> Contender:
    """Find the weights of `mode` with which the figure's mean over the queries is highest.

    With `of_share`, that of bm25 as a share of the most that each query could reach.

    Of equal means the middle of the longest run on the grid is taken, so that no edge is hit.
    """
    contender = _share_contender if of_share else _contender
    return _best_of_line(queries, lambda logarithm: contender(mode, logarithm), GRID, figure)


def learn_z_scores(queries: Sequence[ScoredQuery], hybrid: Contender, figure: str) -> Contender:
    """Find the weights of the z-scores of both parts, over the first hits of `hybrid`.

    As `learn_weights` does; z-scores have one scale, so the grid is narrower.
    """

    def contender(logarithm: float) -> Contender:
        vector = float(f"{10.0**logarithm:.{_DIGITS}g}")
        return replace(hybrid, reorder=Reorder(1.0, vector))

    return _best_of_line(queries, contender, Z_SCORE_GRID, figure)


def _best_of_line(
    queries: Sequence[ScoredQuery],
    contender: Callable[[float], Contender],
    grid: Sequence[float],
    figure: str,
) -> Contender:
    def mean(logarithm: float) -> float:
        return float(figures_of(queries, contender(logarithm), figure).mean())

    on_grid = [mean(each) for each in grid]
    place = _middle_of_best(on_grid)
    low, high = grid[max(0, place - 1)], grid[min(len(grid) - 1, place + 1)]
    found, value = _golden_section(mean, low, high)
    return contender(found if value > on_grid[place] else grid[place])


def learn_rrf_k(queries: Sequence[ScoredQuery], weights: Weights, figure: str) -> Contender:
    """Find the k of RRF_KS with which hybrid-rrf's mean is highest, over hits by `weights`."""
    contenders = [Contender("hybrid-rrf", weights._replace(rrf_k=k)) for k in RRF_KS]
    means = [float(figures_of(queries, each, figure).mean()) for each in contenders]
    return contenders[_middle_of_best(means)]


def _middle_of_best(values: Sequence[float]) -> int:
    """Find the middle of the longest run of the highest value."""
    best, runs, start = max(values), [], None
    for place, value in enumerate([*values, -math.inf]):
        if value == best:
            start = place if start is None else start
        elif start is not None:
            runs.append((start, place - 1))
            start = None
    first, last = max(runs, key=lambda run: run[1] - run[0])
    return (first + last) // 2


def _golden_section(
    value_at: Callable[[float], float], low: float, high: float
) -> tuple[float, float]:
    """Narrow down the highest value between two ends; where it is, and what it is.

    Kiefer, "Sequential minimax search for a maximum", 1953. Values may have several peaks: any
    place that was looked at is good enough if it is the best of those.
    """
    seen: dict[float, float] = {}

    def value(place: float) -> float:
        if place not in seen:
            seen[place] = value_at(place)
        return seen[place]

    for _ in range(_STEPS):
        left = high - _GOLDEN * (high - low)
        right = low + _GOLDEN * (high - low)
        if value(left) >= value(right):
            high = right
        else:
            low = left
    best = max(seen, key=lambda place: seen[place])
    return best, seen[best]


def _contender(mode: Mode, logarithm: float) -> Contender:
    vector = DEFAULT_BM25_WEIGHT * 10.0**logarithm
    return Contender(mode, Weights(DEFAULT_BM25_WEIGHT, float(f"{vector:.{_DIGITS}g}")))


def _share_contender(mode: Mode, logarithm: float) -> Contender:
    share = 10.0 ** (_SHARE_SHIFT - logarithm)
    return Contender(mode, Weights(float(f"{share:.{_DIGITS}g}"), 1.0), of_share=True)
