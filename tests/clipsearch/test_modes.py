"""The table of modes, and that the embedded engine's fusions and both engines' checks fit it."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.modes import MODES, RANKINGS, ranking_of
from clipsearch.ranking import FUSIONS
from finetune.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = st.floats(0, 30, width=32)
COSINES = st.floats(-1, 1, width=32)
WEIGHTS = st.floats(0, 100)


def test_the_table_has_each_mode_and_each_that_joins_both_parts_a_fusion() -> None:
    assert tuple(RANKINGS) == MODES
    joining = {m for m, ranking in RANKINGS.items() if ranking.uses_words and ranking.needs_vector}
    assert set(FUSIONS) == joining
    for ranking in RANKINGS.values():
        assert ranking.uses_words or ranking.needs_vector
        if ranking.reranks is not None:
            assert RANKINGS[ranking.reranks].reranks is None
            assert ranking.reranks in joining


def test_the_page_says_what_each_mode_scores() -> None:
    text = (REPOSITORY / "docs" / "searching.md").read_text(encoding="utf-8")
    table = text.partition("| mode | score |\n|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()] == list(MODES)


def test_rank_profiles_take_the_parts_that_the_table_says() -> None:
    folder = importlib.resources.files("vespa_app") / "schemas" / "image"
    texts = {mode: (folder / f"{mode}.profile").read_text(encoding="utf-8") for mode in MODES}
    for mode, ranking in RANKINGS.items():
        assert ("global-phase" in texts[mode]) == (ranking.reranks is not None)
        if ranking.reranks is not None:
            assert f"rank-profile {mode} inherits {ranking.reranks} {{" in texts[mode]


@given(PARTS, COSINES, COSINES, WEIGHTS, WEIGHTS)
def test_scores_of_the_first_phase_rise_with_the_cosine(
    bm25: float, one: float, two: float, bm25_weight: float, vector_weight: float
) -> None:
    """The threshold bound of the embedded engine holds for no other."""
    cosines = np.array(sorted((one, two)), np.float32)
    for mode, fusion in FUSIONS.items():
        if RANKINGS[mode].reranks is None:
            words = np.full(2, bm25, np.float32)
            low, high = fusion(words, cosines, (bm25_weight, vector_weight))
            assert low <= high, mode


def test_an_unknown_mode_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"unknown mode 'fuzzy': choose one of bm25, vector, "):
        ranking_of("fuzzy")


@pytest.mark.parametrize("mode", MODES)
def test_a_query_is_checked_by_what_its_mode_needs(mode: str) -> None:
    info = IndexInfo(4)
    unit = np.array([1, 0, 0, 0], np.float32)
    EngineQuery(mode, ("a",), unit).check(info)  # type: ignore[arg-type]
    for vector in (None, unit[:3], unit * 2):
        query = EngineQuery(mode, ("a",), vector)  # type: ignore[arg-type]
        if RANKINGS[query.mode].needs_vector:
            with pytest.raises(UsageError):
                query.check(info)
        else:
            query.check(info)
