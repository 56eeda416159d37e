"""The ranking as arithmetic: what bm25, vector and hybrid mean, apart from any engine.

Rows are numbered by document id, ascending, wherever an order of equal scores matters: then
"equal scores by id" is "equal scores by row", and every function here keeps to it.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from clipsearch.modes import RRF_K, Mode, Weights

Scores = npt.NDArray[np.floating]
RowNumbers = npt.NDArray[np.int64]
Fusion = Callable[[Scores, Scores, Weights], npt.NDArray[np.float64]]
"""(bm25, cosine, weights) of the same documents to their scores."""

BM25_K1 = 1.2
BM25_B = 0.75


def inverse_document_frequency(documents: int, matching: int) -> float:
    """Return ln(1 + (N - n + 0.5) / (n + 0.5)), as Vespa does.

    n are the documents with the term, `matching`, and N all `documents`.
    """
    return float(np.log1p((documents - matching + 0.5) / (matching + 0.5)))


def most_bm25(idfs: Iterable[float]) -> float:
    """Return what bm25 could reach at most: the sum of idf (k1 + 1) over a query's terms.

    That is where each term filled the shortest document. 1 where that is nothing.
    """
    return sum(idfs) * (BM25_K1 + 1) or 1.0


def term_impacts(
    frequencies: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], average_length: float
) -> npt.NDArray[np.float64]:
    """Return bm25 without its idf: tf (k1 + 1) / (tf + k1 (1 - b + b length / average)).

    Args:
        frequencies: Of the term in each document's captions together.
        lengths: Tokens of each document's captions together.
        average_length: Over all documents, those without a caption included.
    """
    norm = BM25_K1 * (1 - BM25_B + BM25_B * lengths / average_length)
    impacts: npt.NDArray[np.float64] = frequencies * (BM25_K1 + 1) / (frequencies + norm)
    return impacts


def closeness(cosine: Scores) -> Scores:
    """Return 1 / (2 - cosine), which rises with the cosine.

    It is Vespa's closeness for prenormalized-angular.
    """
    return 1.0 / (2.0 - cosine)


def reciprocal_rank(scores: Scores, k: int = RRF_K) -> npt.NDArray[np.float64]:
    """Return 1 / (k + rank) with ranks from 1, equal scores in the order given.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion", SIGIR 2009; ties as in Vespa.
    """
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1.0 / (k + ranks)


def normalize_linear(scores: Scores) -> npt.NDArray[np.float64]:
    """Return (score - min) / (max - min); 0.5 where all are equal."""
    if len(scores) == 0:
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    if high == low:
        return np.full(len(scores), 0.5)
    return (scores.astype(np.float64) - low) / (high - low)


def plain_sum(bm25: Scores, cosine: Scores, _: Weights) -> npt.NDArray[np.float64]:
    """Return bm25 + closeness, the sum that the literature starts from; rises with the cosine."""
    return bm25.astype(np.float64) + closeness(cosine.astype(np.float64))


def weighted_sum(bm25: Scores, cosine: Scores, weights: Weights) -> npt.NDArray[np.float64]:
    """Return the weighted sum of bm25 and cosine, each as it is."""
    return weights[0] * bm25.astype(np.float64) + weights[1] * cosine.astype(np.float64)


def fused_ranks(bm25: Scores, cosine: Scores, weights: Weights) -> npt.NDArray[np.float64]:
    """Return reciprocal rank fusion of the two orders."""
    return reciprocal_rank(bm25, weights.rrf_k) + reciprocal_rank(cosine, weights.rrf_k)


def normalized_sum(bm25: Scores, cosine: Scores, weights: Weights) -> npt.NDArray[np.float64]:
    """Return the weighted sum of both parts, each brought to 0..1 over the documents given."""
    return weights[0] * normalize_linear(bm25) + weights[1] * normalize_linear(cosine)


FUSIONS: Mapping[Mode, Fusion] = MappingProxyType(
    {
        "hybrid": weighted_sum,
        "hybrid-sum": plain_sum,
        "hybrid-rrf": fused_ranks,
        "hybrid-normalized": normalized_sum,
    }
)
"""How each mode with words and a vector joins them.

One that reranks is given the first hits of the other mode, ordered best first. Any other scores
each document by itself, and must not fall where the cosine rises and its weight is not negative.
"""


def best_rows(scores: Scores, k: int, rows: RowNumbers | None = None) -> RowNumbers:
    """Return the rows of the k highest scores, best first, equal scores by row; -inf is no match.

    Args:
        scores: Of every row, or of `rows`.
        k: At most so many come back.
        rows: Ascending; None where scores[i] is row i's.
    """
    if k <= 0:
        return np.zeros(0, np.int64)
    if k < len(scores):
        # All that tie with the k-th stay in, so that the id decides and not the partition.
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= kth)
    else:
        candidates = np.arange(len(scores))
    candidates = candidates[scores[candidates] > -np.inf]
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return best.astype(np.int64) if rows is None else rows[best]
