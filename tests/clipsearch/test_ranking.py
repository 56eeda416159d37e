"""The ranking's arithmetic against plain Python twins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.ranking import (
    best_rows,
    closeness,
    inverse_document_frequency,
    normalize_linear,
    reciprocal_rank,
    term_impacts,
)

# Few distinct values, so that many tie.
SCORES = st.lists(st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 1.0, 7.5]), max_size=30)
FINITE = st.lists(st.floats(-1e3, 1e3, width=32), max_size=30)


@given(SCORES, st.integers(0, 35))
def test_best_rows_are_sorted_by_score_then_row(scores: list[float], k: int) -> None:
    matching = [row for row, score in enumerate(scores) if score > -math.inf]
    expected = sorted(matching, key=lambda row: (-scores[row], row))[:k]
    assert best_rows(np.array(scores), k).tolist() == expected
    names = np.arange(len(scores), dtype=np.int64) * 3 + 1
    assert best_rows(np.array(scores), k, names).tolist() == [3 * row + 1 for row in expected]


@given(FINITE)
def test_reciprocal_rank_counts_from_one_and_ties_in_order(scores: list[float]) -> None:
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    expected = [0.0] * len(scores)
    for rank, place in enumerate(order, start=1):
        expected[place] = 1 / (60 + rank)
    assert reciprocal_rank(np.array(scores)).tolist() == expected


@given(FINITE)
def test_normalized_scores_span_zero_to_one(scores: list[float]) -> None:
    normalized = normalize_linear(np.array(scores, np.float32)).tolist()
    if len(set(scores)) <= 1:
        assert normalized == [0.5] * len(scores)
    else:
        low, high = min(scores), max(scores)
        expected = [(score - low) / (high - low) for score in scores]
        assert normalized == pytest.approx(expected)


def test_bm25_by_hand() -> None:
    # 10 documents, 3 with the term; twice in one of 6 tokens where 4 is the average.
    idf = inverse_document_frequency(10, 3)
    assert idf == pytest.approx(math.log(1 + 7.5 / 3.5))
    (impact,) = term_impacts(np.array([2]), np.array([6]), 4.0)
    assert impact == pytest.approx(2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 6 / 4)))


def test_closeness_of_the_ends() -> None:
    assert closeness(np.array([1.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 1 / 3]
