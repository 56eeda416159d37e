"""Which metadata columns of an index are numbers and which are tags, and documents by that choice.

The first feed chooses, and the index remembers: a column never changes its kind afterwards, since
a filter such as `year>=2010` must mean the same for every document.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clipsearch.documents import Document, DocumentError, Embedding, storable_names
from clipsearch.storable import blanked
from finetune.errors import UsageError
from finetune.manifest import MetadataValue, Record

SPLIT_COLUMN = "split"


@dataclass(frozen=True, slots=True)
class Columns:
    """The metadata columns by kind; no column is in both."""

    numbers: frozenset[str]
    tags: frozenset[str]


def choose_columns(
    found: Mapping[str, str],
    remembered: Columns,
    *,
    tags: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> Columns:
    """What the index remembers, and for each new column what is asked for or was found.

    Args:
        found: Column to "number" or "tag", as the manifest's values suggest.
        remembered: By the index.
        tags, numbers: Asked for by the user; they decide about new columns only.

    Raises UsageError for a column that is unknown, asked for as both kinds, or remembered as
    the other kind.
    """
    kinds = _storable(found)
    kinds[SPLIT_COLUMN] = "tag"
    kinds |= dict.fromkeys(remembered.numbers, "number") | dict.fromkeys(remembered.tags, "tag")
    asked_tags, asked_numbers = set(map(blanked, tags)), set(map(blanked, numbers))
    for column in sorted(asked_tags & asked_numbers):
        raise UsageError(f"column {column!r} is asked for both as tag and as number; choose one")
    fixed = remembered.numbers | remembered.tags | {SPLIT_COLUMN}
    for kind, asked in (("tag", asked_tags), ("number", asked_numbers)):
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
    return Columns(
        frozenset(column for column, kind in kinds.items() if kind == "number"),
        frozenset(column for column, kind in kinds.items() if kind == "tag"),
    )


def document_of(
    record: Record, columns: Columns, *, path: str | None = None, embedding: Embedding | None = None
) -> Document:
    """The record as a document; empty values are left out.

    Args:
        record: Of the manifest.
        columns: Of the index.
        path: Instead of the record's own.
        embedding: float32[d], unit length.

    Raises DocumentError for text in a column that the index keeps as numbers.
    """
    tags = {SPLIT_COLUMN: record.split}
    numbers = {}
    for column, value in record.metadata.items():
        if _is_empty(value):
            continue
        if blanked(column) in columns.numbers:
            numbers[column] = _number(column, value)
        else:
            tags[column] = _text(value)
    return Document(
        id=record.id,
        captions=record.captions,
        path=record.path if path is None else path,
        tags=tags,
        numbers=numbers,
        embedding=embedding,
    )


def _storable(found: Mapping[str, str]) -> dict[str, str]:
    """The columns under the names by which an index can hold them."""
    try:
        return storable_names(found)
    except DocumentError as error:
        raise UsageError(str(error)) from error


def _is_empty(value: MetadataValue) -> bool:
    # Data frames write a missing number as nan.
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(column: str, value: MetadataValue) -> float:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DocumentError(
            f"{column} is {value!r}, but the index keeps {column} as numbers;"
            f" mend the value, or feed a new index with --tag {column}"
        )
    return number


def _text(value: MetadataValue) -> str:
    # 2010.0 is how a data frame with a missing value writes the year 2010.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
