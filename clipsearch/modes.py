"""The modes that a query may ask for, and what each needs and takes: one table for both engines.

A new mode is an entry of `Mode` and of RANKINGS, a rank profile with its query profile in
`vespa_app/`, and, for the embedded engine, a function in `clipsearch.ranking.FUSIONS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, cast, get_args

from finetune.errors import UsageError

Mode = Literal["bm25", "vector", "hybrid", "hybrid-sum", "hybrid-rrf", "hybrid-normalized"]
MODES: tuple[Mode, ...] = get_args(Mode)


RRF_K = 60
"""Of reciprocal rank fusion, where nobody calibrated it: that of its authors."""


class Weights(NamedTuple):
    """What the fusions of words and vector take.

    Attributes:
        bm25, vector: Of the weighted sums, 0 or more.
        rrf_k: Of reciprocal rank fusion, 1 / (k + rank); 1 or more.
    """

    bm25: float
    vector: float
    rrf_k: int = RRF_K


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a mode ranks by.

    Attributes:
        uses_words: It finds every document with a word of the query.
        needs_vector: It finds the documents nearest to the query's vector.
        weighted: It weighs these two; a query may bring weights of its own.
        reranks: The mode whose first hits it puts into another order; None where it scores every
            match by itself.
    """

    uses_words: bool = True
    needs_vector: bool = True
    weighted: bool = False
    reranks: Mode | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the last calibration of an index gained on queries that it did not learn from.

    Attributes:
        metric: The figure, such as "mrr@10".
        gain: Its mean over what it was before.
        low, high: Ends of the gain's 95 % interval.
        queries: That it was measured on.
    """

    metric: str
    gain: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True, slots=True)
class WordShare:
    """How a hybrid joins words and vector: weight * word share + cosine.

    The word share is bm25 over the most that the query's words could reach (`clipsearch.ranking`),
    so that neither a long query nor a rare word turns the proportion round.

    Attributes:
        weight: Of the word share, from 1 / MAX_SHARE_WEIGHT to MAX_SHARE_WEIGHT.
        images: That it was learned from.
        apart: How far the mean cosine of captions with their own image lies above that with others,
            among these; None where it was not measured.
    """

    weight: float
    images: int
    apart: float | None = None


MAX_SHARE_WEIGHT = 1000.0
"""Of a word share, or 1 over it: the other part then decides between equals alone."""


RANKINGS: Mapping[Mode, Ranking] = MappingProxyType(
    {
        "bm25": Ranking(needs_vector=False),
        "vector": Ranking(uses_words=False),
        "hybrid": Ranking(weighted=True),
        "hybrid-sum": Ranking(),
        "hybrid-rrf": Ranking(weighted=True, reranks="hybrid"),
        "hybrid-normalized": Ranking(weighted=True, reranks="hybrid"),
    }
)
UNRANKED = Ranking(uses_words=False, needs_vector=False)
"""Of a query of filters alone: whatever passes them, in an order that the query names."""
WEIGHTED_MODES = tuple(mode for mode in MODES if RANKINGS[mode].weighted)
MODES_WITHOUT_VECTOR = tuple(mode for mode in MODES if not RANKINGS[mode].needs_vector)


def ranking_of(mode: str) -> Ranking:
    """Return what `mode` ranks by.

    Raises UsageError, naming all modes, for one that does not exist.
    """
    if mode not in RANKINGS:
        raise UsageError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    return RANKINGS[cast(Mode, mode)]
