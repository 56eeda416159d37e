"""Cut-offs: the least score and the least cosine of what a query finds."""

import math

from clipsearch.modes import Mode, ranking_of
from clipsearch.sorting import Sort
from finetune.errors import UsageError

UNCUT_FACETS = (
    "this mode scores the first hits anew after all matches are counted: facets count those below"
    " the least score too"
)


def check_cutoffs(
    mode: Mode | None, min_score: float | None, min_cosine: float | None, sort: Sort | None
) -> None:
    """Raise UsageError for a least score or cosine that is none, or that nothing could have.

    `mode` None is a query of filters alone.
    """
    if min_cosine is not None:
        if not -1 <= min_cosine <= 1:
            raise UsageError(f"the least cosine is {min_cosine:g}, must be -1 to 1")
        if mode is None or not ranking_of(mode).needs_vector:
            what = "a list" if mode is None else f"mode {mode}"
            raise UsageError(
                f"{what} compares no vectors, so there is no cosine to cut by;"
                f" use --min-score, or --mode vector"
            )
    if min_score is None:
        return
    if not math.isfinite(min_score):
        raise UsageError(f"the least score is {min_score:g}; give a finite number")
    if mode is None:
        raise UsageError("a list has no scores to cut by; ask for something, with a query")
    if sort is not None:
        raise UsageError(
            f"what is sorted by {sort.by} has no score to cut by; cut by the cosine"
            f" (--min-cosine), or leave out --sort"
        )
