"""Orders as people write them: `year`, `-year` for the greatest first, `id`, `path`."""

from clipsearch.engine import IndexInfo
from clipsearch.sorting import SORTED_TEXTS, Sort
from finetune.errors import UsageError
from finetune.text.composed import composed


def parse_sort(text: str | None, info: IndexInfo) -> Sort | None:
    """Read an order; None for none.

    Raises UsageError for what the index cannot be sorted by.
    """
    if text is None:
        return None
    if text in info.compared_columns:  # one whose name begins with a minus
        return Sort(text)
    descending = text.startswith("-")
    name = text[1:] if descending else text
    if name in SORTED_TEXTS:
        return Sort(name, descending)
    for column in info.compared_columns:
        if composed(column) == composed(name):
            return Sort(column, descending)
    known = ", ".join((*SORTED_TEXTS, *sorted(info.compared_columns)))
    if composed(name) in map(composed, info.tag_columns):
        raise UsageError(
            f"cannot sort by {name}: it is kept as text; sort by one of {known} (where its every"
            f" value is a number or a date, feed a new index with --number or --date {name})"
        )
    raise UsageError(f"cannot sort by {text!r}: the index can be sorted by {known}")
