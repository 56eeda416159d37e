"""What `evaluate --index` concludes from its figures, and which tables it leaves out."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from clipsearch.engine import IndexInfo
from clipsearch.relevance.conclusion import conclusion, telling_groups
from clipsearch.relevance.measures import ModeFigures
from finetune.evaluation.intervals import Sampling
from finetune.figures import Estimate, Figure


def mode(name: Any, value: float, low: float | None = None, high: float = 0.0) -> ModeFigures:
    difference = None if low is None else Estimate((low + high) / 2, low, high)
    return ModeFigures(name, (Figure("mrr@10", Estimate(value), None, difference),))


def evaluation(*modes: ModeFigures, text_mode: Any = None, queries: int = 100) -> Any:
    return SimpleNamespace(
        modes=modes,
        against=modes[0].mode,
        info=IndexInfo(8, text_mode=text_mode),
        pool=1234,
        queries=[SimpleNamespace(cluster=number) for number in range(queries)],
        options=SimpleNamespace(sampling=Sampling()),
        groups=(),
    )


BM25 = mode("bm25", 0.52)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            evaluation(BM25, mode("hybrid", 0.61, 0.05, 0.13)),
            "hybrid, by which a text without --mode is ranked, finds more than bm25, the better"
            " single mode: mrr@10 0.610 against 0.520 in a pool of 1,234 images, surely"
            " (95%: +0.050 to +0.130).",
        ),
        (
            evaluation(BM25, mode("hybrid", 0.61, 0.05, 0.13), queries=29),
            "hybrid, … finds more … images, as far as so few queries tell (+0.050 to +0.130).",
        ),
        (
            evaluation(BM25, mode("hybrid", 0.53, -0.01, 0.03)),
            "hybrid, … is not surely better or worse than bm25, … (-0.010 to +0.030).",
        ),
        (
            evaluation(BM25, mode("hybrid", 0.4, -0.2, -0.1), mode("hybrid-rrf", 0.6, 0.0, 0.2)),
            "hybrid, … finds less than bm25 alone: … clipsearch calibrate learns better weights, or"
            " take --mode bm25. Highest is hybrid-rrf, 0.600; whether that is chance, …",
        ),
        (
            evaluation(BM25, mode("hybrid-rrf", 0.6, 0.05, 0.2), text_mode="hybrid-rrf"),
            "hybrid-rrf, … finds more than bm25, …",
        ),
        (
            evaluation(BM25, mode("hybrid", 0.5, -0.1, 0.1), text_mode="bm25"),
            "A text without --mode is ranked by bm25, the better single mode: mrr@10 0.520 …",
        ),
        (
            evaluation(BM25),
            "A text without --mode is ranked by bm25: mrr@10 0.520 in a pool of 1,234 images.",
        ),
    ],
)
def test_the_conclusion_says_what_is_sure(found: Any, told: str) -> None:
    assert re.fullmatch(re.escape(told).replace("…", ".*"), conclusion(found))


def test_a_table_of_one_group_tells_nothing() -> None:
    found = evaluation(BM25)
    pairs = (("words", "0-2"), ("words", "3-5"), ("other captions", "yes"))
    found.groups = [SimpleNamespace(by=by, name=name) for by, name in pairs]
    assert telling_groups(found) == ["words"]
