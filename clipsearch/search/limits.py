"""How much a query may ask for."""

from clipsearch.engine import check_weights
from clipsearch.modes import WEIGHTED_MODES, Mode, ranking_of
from clipsearch.search.options import ListOptions, QueryOptions
from finetune.errors import UsageError

MAX_HITS = 10_000
MAX_CANDIDATES = 10_000


def check_page(options: ListOptions) -> None:
    """Raise UsageError for hits or a page out of range."""
    if not 1 <= options.k <= MAX_HITS:
        raise UsageError(f"k is {options.k}, must be 1 to {MAX_HITS}")
    if options.page < 1:
        raise UsageError(f"page is {options.page}; pages are counted from 1")


def check_options(mode: Mode, options: QueryOptions) -> None:
    """Raise UsageError for a value out of range or a weight that the mode does not take."""
    weighted = ranking_of(mode).weighted
    check_page(options)
    if not 1 <= options.candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates is {options.candidates}, must be 1 to {MAX_CANDIDATES}")
    given = (options.bm25_weight, options.vector_weight)
    weights = [weight for weight in given if weight is not None]
    if weights and not weighted:
        raise UsageError(f"{mode} takes no weights: only {', '.join(WEIGHTED_MODES)} do")
    check_weights(*weights)
    if given == (0, 0):
        raise UsageError("the weights of bm25 and vector are both 0; give one that is above")
