"""How much a query may ask for."""

from clipsearch.engine import check_weights
from clipsearch.modes import WEIGHTED_MODES, ranking_of
from finetune.errors import UsageError

MAX_HITS = 10_000
MAX_CANDIDATES = 10_000


def check_page(k: int, page: int) -> None:
    """Raise UsageError for hits or a page out of range."""
    if not 1 <= k <= MAX_HITS:
        raise UsageError(f"k is {k}, must be 1 to {MAX_HITS}")
    if page < 1:
        raise UsageError(f"page is {page}; pages are counted from 1")


def check_options(
    mode: str,
    k: int,
    page: int,
    candidates: int,
    bm25_weight: float | None,
    vector_weight: float | None,
) -> None:
    """Raise UsageError for a value out of range or a weight that the mode does not take."""
    weighted = ranking_of(mode).weighted
    check_page(k, page)
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates is {candidates}, must be 1 to {MAX_CANDIDATES}")
    weights = [weight for weight in (bm25_weight, vector_weight) if weight is not None]
    if weights and not weighted:
        raise UsageError(f"{mode} takes no weights: only {', '.join(WEIGHTED_MODES)} do")
    check_weights(*weights)
    if bm25_weight == 0 and vector_weight == 0:
        raise UsageError("the weights of bm25 and vector are both 0; give one that is above")
