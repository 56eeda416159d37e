"""Which metadata columns of an index are numbers, dates and tags, and documents by that choice.

The first feed chooses, by the rules of `finetune.text.numerals` and `finetune.text.dates`, and the
index remembers: a column never changes its kind afterwards, since a filter such as `year>=2010`
must mean the same for every document. A later value that is no number without loss, such as the zip
02134, or no date, is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.document_fields import storable_names
from clipsearch.documents import PARTS, Document
from clipsearch.storable import blanked, is_plain
from finetune.errors import DocumentError, UsageError
from finetune.manifest.formats.row import MetadataValue
from finetune.manifest.manifest import Record
from finetune.manifest.merging.record_block import RecordBlock
from finetune.text.composed import composed
from finetune.text.dates import date_period
from finetune.text.numerals import exact_number, number_text, read_number, value_text

SPLIT_COLUMN = "split"


@dataclass(frozen=True, slots=True)
class MetadataColumns:
    """The metadata columns by kind; no column is in both.

    Attributes:
        numbers, tags, dates: By kind.
        asked_numbers: Those of `numbers` that the user asked for in this feed: their values are
            numbers whatever their spelling, 02134 is 2134.
        keep_split: Whether a document has its split as a tag.
    """

    numbers: frozenset[str]
    tags: frozenset[str]
    asked_numbers: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    keep_split: bool = True


def choose_columns(
    found: Mapping[str, str],
    remembered: MetadataColumns,
    *,
    tags: Iterable[str] = (),
    numbers: Iterable[str] = (),
    dates: Iterable[str] = (),
    names_splits: bool = True,
) -> MetadataColumns:
    """Return what the index remembers, and for each new column what is asked for or was found.

    Args:
        found: Column to "number", "date" or "tag", as the manifest's values suggest.
        remembered: By the index.
        tags, numbers, dates: Asked for by the user; they decide about new columns only.
        names_splits: Whether the manifest does, so that `split` is a tag.

    Raises UsageError for a column that is unknown, asked for as two kinds, or remembered as
    another kind.
    """
    kinds = _storable(found)
    if names_splits:
        kinds[SPLIT_COLUMN] = "tag"
    fixed = {SPLIT_COLUMN}
    known_kinds = {"number": remembered.numbers, "tag": remembered.tags, "date": remembered.dates}
    for kind, columns in known_kinds.items():
        # An index of an earlier clipsearch may have the decomposed form of a name.
        names = {*columns, *map(composed, columns)}
        fixed |= names
        kinds |= dict.fromkeys(names, kind)
    wishes = {
        kind: {composed(blanked(column)) for column in asked}
        for kind, asked in (("tag", tags), ("number", numbers), ("date", dates))
    }
    for one, other in combinations(wishes, 2):
        for column in sorted(wishes[one] & wishes[other]):
            raise UsageError(
                f"column {column!r} is asked for both as {one} and as {other}; choose one"
            )
    for kind, asked in wishes.items():
        for column in sorted(asked):
            if column not in kinds:
                known = ", ".join(sorted(kinds))
                raise UsageError(f"--{kind} {column}: no such column; there are: {known}")
            if column in fixed and kinds[column] != kind:
                raise UsageError(
                    f"--{kind} {column}: the index keeps this column as a {kinds[column]};"
                    f" a column cannot change its kind, so feed a new index"
                )
            kinds[column] = kind
    by_kind = {
        kind: frozenset(column for column, known in kinds.items() if known == kind)
        for kind in wishes
    }
    return MetadataColumns(
        by_kind["number"], by_kind["tag"], frozenset(wishes["number"]), by_kind["date"]
    )


def document_of(
    record: Record,
    columns: MetadataColumns,
    *,
    id: str | None = None,
    path: str | None = None,
    data_set: str = "",
) -> Document:
    """Return the record as a document without an embedding; empty values are left out.

    Args:
        record: Of the manifest.
        columns: Of the index.
        id, path: Instead of the record's own.
        data_set: That it comes from.

    Raises DocumentError for a value that would be another one, or none, in a column that the
    index keeps as numbers or dates.
    """
    tags, numbers = tags_and_numbers(record.metadata, record.split, columns)
    return Document(
        id=record.id if id is None else id,
        captions=record.captions,
        path=record.path if path is None else path,
        tags=tags,
        numbers=numbers,
        data_set=data_set,
    )


def parts_of(
    block: RecordBlock, columns: MetadataColumns, data_set: str
) -> tuple[dict[str, Sequence[Any]], npt.NDArray[np.bool_]]:
    """Return what is fed of each record of a block, by `clipsearch.documents.PARTS`.

    Beside them, bool[n], for which records that raises no DocumentError; what is returned of the
    others means nothing.
    """
    count = len(block.ids)
    tags: list[dict[str, str]] = []
    numbers: list[dict[str, float]] = []
    fits = np.ones(count, bool)
    for place, (metadata, split) in enumerate(zip(block.metadata, block.splits, strict=True)):
        try:
            own_tags, own_numbers = tags_and_numbers(metadata, split, columns)
        except DocumentError:
            own_tags, own_numbers, fits[place] = {}, {}, False
        tags.append(own_tags)
        numbers.append(own_numbers)
    contents = [each.hex() if each is not None else "" for each in block.contents]
    parts: dict[str, Sequence[Any]] = {
        name: [known.kind.empty()] * count for name, known in PARTS.items()
    }
    parts |= {
        "captions": block.captions,
        "path": block.paths,
        "tags": tags,
        "numbers": numbers,
        "data_set": [data_set] * count,
        "content": contents,
        "look": contents,  # of a ready-made vector
    }
    return parts, fits


def tags_and_numbers(
    metadata: Mapping[str, MetadataValue], split: str, columns: MetadataColumns
) -> tuple[dict[str, str], dict[str, float]]:
    """Return what a document has of its record's metadata; empty values are left out.

    Raises DocumentError as `document_of` does.
    """
    tags: dict[str, str] = {SPLIT_COLUMN: split} if columns.keep_split else {}
    numbers: dict[str, float] = {}
    for column, value in metadata.items():
        # Data frames write a missing number as nan, the one value that is not itself.
        if value is None or value == "" or value != value:
            continue
        name = column if is_plain(column) else blanked(column)
        if name in columns.numbers:
            asked = name in columns.asked_numbers
            number = None if asked else _exact_number(value)
            numbers[column] = _number(column, value, asked=asked) if number is None else number
        elif name in columns.dates:
            tags[column], numbers[column] = date_of(column, value_text(value))
        else:
            tags[column] = value if isinstance(value, str) else value_text(value)
    return tags, numbers


def date_of(column: str, value: str) -> tuple[str, float]:
    """Return a date as a document has it: its text, and its seconds.

    Raises DocumentError for what is none.
    """
    period = date_period(value)
    if period is None:
        raise DocumentError(
            f"{column} is {value!r}, but the index keeps {column} as dates; write it as 2019,"
            f" 2019-06, 2019-06-01 or 2019-06-01T12:30, or feed a new index with --tag {column}"
        )
    return value, period.start


# Years, classes and scores come again and again.
_exact_number = lru_cache(maxsize=65_536, typed=True)(exact_number)


def _storable(found: Mapping[str, str]) -> dict[str, str]:
    """Return the columns under the names by which an index can hold them."""
    try:
        return storable_names(found)
    except DocumentError as error:
        raise UsageError(str(error)) from error


def _number(column: str, value: MetadataValue, *, asked: bool) -> float:
    number = exact_number(value)
    if number is None and asked:
        number = read_number(value)
    if number is not None:
        return number
    kept = f"{column} is {value!r}, but the index keeps {column} as numbers"
    another = None if asked else read_number(value)
    if another is not None:
        raise DocumentError(
            f"{kept}, and as a number it would be {number_text(another)}; feed with"
            f" --number {column} to take it so, or feed a new index with --tag {column}"
        )
    if _is_whole_number(value):
        kept += ", and no double has that value"
    raise DocumentError(f"{kept}; mend the value, or feed a new index with --tag {column}")


def _is_whole_number(value: MetadataValue) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.strip("+- ").isdecimal())
