"""A filter by `folder` finds what lies below that folder too, and the facet `folder` counts so.

A document's tag is its own folder, "Holiday 2019/Müritz". A filter by "Holiday 2019" becomes one by
that and by every folder of the index below it, which either engine compares as it compares any tag.
They are asked of the engine, by a count over the tag, whose cost grows with the index.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from clipsearch.engine import Engine, EngineQuery, TooManyValuesError
from clipsearch.engines.facet_counts import Counts, counts_by_tag
from clipsearch.filtering import FOLDER, Filter, TagFilter
from clipsearch.folding import fold
from clipsearch.search.filters import Filters, parse_filters
from finetune.errors import EngineError, UsageError

MOST_FOLDERS = 2_000
"""That a filter may stand for: each is compared by itself."""
_OTHER_WAY = "feed with --folder-tags levels and filter by folder_1, folder_2 …"


def filters_of(asked: Filters, engine: Engine) -> tuple[Filter, ...]:
    """Return filters as people write them for an engine.

    Raises UsageError as `parse_filters` and `with_folders_below` do, and EngineError.
    """
    return with_folders_below(parse_filters(asked, engine.info), engine)


def with_folders_below(filters: Sequence[Filter], engine: Engine) -> tuple[Filter, ...]:
    """Return the filters, those by `folder` with all folders below.

    Raises UsageError for more than MOST_FOLDERS, or more in all than the engine can name, and
    EngineError, also where it answers for a part.
    """
    if not any(isinstance(one, TagFilter) and one.column == FOLDER for one in filters):
        return tuple(filters)
    folders = _folders(engine)
    return tuple(
        _with_below(one, folders) if isinstance(one, TagFilter) and one.column == FOLDER else one
        for one in filters
    )


def _folders(engine: Engine) -> list[str]:
    try:
        page = engine.search(EngineQuery(None, k=1, facets=(FOLDER,), all_values=True))
    except TooManyValuesError as error:
        raise UsageError(f"a filter by {FOLDER} is not possible: {error}; {_OTHER_WAY}") from error
    if page.partial is not None:
        raise EngineError(f"a filter by {FOLDER} needs a whole answer: {page.partial}")
    return [value for value, _ in page.facets.get(FOLDER, ())]


def _with_below(one: TagFilter, folders: Sequence[str]) -> TagFilter:
    named = [value.rstrip("/") or value for value in one.values]
    above = tuple(f"{fold(value)}/" for value in named)
    below = [folder for folder in folders if fold(folder).startswith(above)]
    if len(below) > MOST_FOLDERS:
        raise UsageError(
            f"the filter {FOLDER}={' or '.join(named)} is of {len(below):,} folders, more than"
            f" {MOST_FOLDERS:,}; name one further down, or {_OTHER_WAY}"
        )
    return replace(one, values=tuple(dict.fromkeys([*named, *below])))


def with_folders_counted(facets: Mapping[str, Counts]) -> dict[str, Counts]:
    """Return the facets, `folder` with what lies below each folder, and with those above them."""
    if FOLDER not in facets:
        return dict(facets)
    return {**facets, FOLDER: counts_by_tag(_counted_above(facets[FOLDER]))}


def _counted_above(counts: Counts) -> Iterator[tuple[str, int]]:
    for folder, count in counts:
        while folder:
            yield folder, count
            folder = folder.rpartition("/")[0]
