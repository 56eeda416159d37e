"""Near duplicates among hits: the best of those that look alike, which stands for the others."""

from clipsearch.modes import Mode, ranking_of
from clipsearch.sorting import Sort
from finetune.errors import UsageError

MOST_COLLAPSED = 1_000
"""Hits, over all pages: an engine gathers all up to the page's last."""


def check_collapse(mode: Mode | None, sort: Sort | None, last: int) -> None:
    """Raise UsageError for a query whose hits cannot be collapsed; `last` ends its page."""
    if mode is None or sort is not None:
        what = "a list" if sort is None else f"what is sorted by {sort.by}"
        raise UsageError(
            f"{what} has no best of those that look alike; collapse what is ordered by its score"
        )
    reranked = ranking_of(mode).reranks
    if reranked is not None:
        raise UsageError(
            f"{mode} orders anew what was found, and cannot be collapsed; use --mode {reranked}"
        )
    if last > MOST_COLLAPSED:
        raise UsageError(
            f"a collapsed answer has {MOST_COLLAPSED:,} hits at most, and hit {last:,} is asked for"
        )
