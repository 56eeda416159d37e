"""Filters as people write them, checked against the columns that the index has.

class=airport           the tag has this whole value, whatever its case and Unicode form
class=airport|beach     any of these (a bar inside a value is written \\|)
class!=airport          not this value; a document without the tag passes
year=2010               the number is exactly this
year=2010..2014         from, to, both included; either side may be left out
year>=2010  year<2015   >=, <=, > and <
near=48.1,11.6,5km      within this distance of latitude and longitude (m, km, mi)
taken=2019-06           of a date: in that month; a year, a day or a time do as well
taken=2019..2021        from the beginning of the first to the end of the last
taken>=2019-06          from its beginning on; > is after its end, < before its beginning
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from clipsearch.engine import IndexInfo
from clipsearch.filtering import Filter, NearFilter, NumberFilter, TagFilter
from clipsearch.search.date_filters import date_between, date_filter
from clipsearch.search.near_filter import check_near, check_places, is_near, near_filter, near_text
from clipsearch.storable import blanked
from finetune.errors import UsageError
from finetune.several import check_several
from finetune.text.composed import composed, forms
from finetune.text.numerals import number_text, read_number, value_text

# What a column may be asked for from Python; text is taken as the whole value, bars included.
FilterValues = str | float | date | None | Sequence[str] | Sequence[float | str | date | None]
Filters = Mapping[str, FilterValues] | Iterable[Filter | str] | str

_OPERATOR = re.compile(r"!=|>=|<=|=|>|<")
_BAR = re.compile(r"(?<!\\)\|")
_NUMBER_OPERATORS = "=, >=, <=, >, < and low..high"


def parse_filters(filters: Filters, info: IndexInfo) -> tuple[Filter, ...]:
    """Read filters for an engine, from `--filter` strings, a mapping, or ready ones.

    A mapping has a column's value, a list of alternatives (tags), or a number, a date, or a
    (low, high) tuple of these in which None leaves a side open.

    In tags, blanks stand for what no index can hold, as in the documents.

    Raises UsageError for a column that the index does not have, or a value that does not fit it.
    """
    return tuple(
        replace(one, values=tuple(map(blanked, one.values))) if isinstance(one, TagFilter) else one
        for one in _parsed(filters, info)
    )


def _parsed(filters: Filters, info: IndexInfo) -> Iterator[Filter]:
    if isinstance(filters, str):
        yield parse_filter(filters, info)
    elif isinstance(filters, Mapping):
        for column, wanted in filters.items():
            yield _from_value(column, wanted, info)
    else:
        for one in filters:
            yield parse_filter(one, info) if isinstance(one, str) else _check_ready(one, info)


def parse_filter(text: str, info: IndexInfo) -> Filter:
    """Read one filter of the syntax above.

    Raises UsageError, naming the filter, where it cannot be read or the column is unknown.
    """
    column, operator, value = _split(text, info)
    if is_near(column, info) and operator == "=":
        return near_filter(text, value.split(","), info)
    column = _known_column(column, (*info.tag_columns, *info.compared_columns), "filter by")
    if column in info.date_columns:
        return date_filter(text, column, operator, value)
    if column in info.number_columns:
        return _number_filter(text, column, operator, value)
    return _tag_filter(text, column, operator, value)


def check_facets(columns: Iterable[str], info: IndexInfo) -> tuple[str, ...]:
    """Return the columns, once each, if the index has them as tags; raises UsageError otherwise."""
    check_several(columns, "facets")
    wanted = dict.fromkeys(map(composed, columns))
    for column in wanted:
        if column in map(composed, info.number_columns):
            raise UsageError(
                f"facets count tags, but {column} is kept as a number;"
                f" filter by a range instead ({column}=low..high), or feed a new index with"
                f" --tag {column}"
            )
    return tuple(_known_column(column, info.counted_columns, "count") for column in wanted)


def _split(text: str, info: IndexInfo) -> tuple[str, str, str]:
    """Return column, operator, value. A known column may hold an operator in its name."""
    for column in sorted((*info.tag_columns, *info.compared_columns), key=len, reverse=True):
        written = next((form for form in forms(column) if text.startswith(form)), None)
        if written is not None:
            rest = text[len(written) :].lstrip()
            found = _OPERATOR.match(rest)
            if found:
                return column, found.group(), rest[found.end() :].strip()
    found = _OPERATOR.search(text)
    if found is None or not text[: found.start()].strip():
        raise UsageError(
            f"the filter {text!r} is not of the form column=value;"
            f" tags take = and !=, numbers {_NUMBER_OPERATORS}"
        )
    return text[: found.start()].strip(), found.group(), text[found.end() :].strip()


def _known_column(column: str, known: Sequence[str], what: str) -> str:
    """Return the column as the index writes it, in whichever Unicode form it was asked for."""
    if column in known:
        return column
    for name in known:
        if composed(name) == composed(column):
            return name
    if not known:
        raise UsageError(f"cannot {what} {column}: the index has no such columns at all")
    close = difflib.get_close_matches(column.lower(), [name.lower() for name in known], n=3)
    meant = [name for name in known if name.lower() in close]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    raise UsageError(f"cannot {what} {column!r}: the index has {', '.join(sorted(known))}{hint}")


def _tag_filter(text: str, column: str, operator: str, value: str) -> TagFilter:
    if operator not in ("=", "!="):
        raise UsageError(
            f"the filter {text!r} compares numbers or dates, but {column} is kept as text: use ="
            f" or !=; where its every value is a number or a date (2024-01-31), feed a new index"
            f" with --number {column} or --date {column}"
        )
    values = tuple(part.replace("\\|", "|").strip() for part in _BAR.split(value))
    if not all(values):
        raise UsageError(f"the filter {text!r} has an empty value; write {column}=value")
    return TagFilter(column, values, exclude=operator == "!=")


def _number_filter(text: str, column: str, operator: str, value: str) -> NumberFilter:
    if operator == "!=" or "|" in value:
        raise UsageError(
            f"the filter {text!r} does not fit {column}, which is kept as a number:"
            f" numbers take {_NUMBER_OPERATORS}"
        )
    if operator == "=":
        low_text, dots, high_text = value.partition("..")
        low = _number(text, low_text) if low_text.strip() else None
        high = (_number(text, high_text) if high_text.strip() else None) if dots else low
        return _range(text, column, low, high)
    bound = _number(text, value)
    if operator.startswith(">"):
        return NumberFilter(column, low=bound, low_open=operator == ">")
    return NumberFilter(column, high=bound, high_open=operator == "<")


def _number(text: str, value: str) -> float:
    number = read_number(value)
    if number is None:
        why = ""
        if value.strip().lstrip("+-").isdecimal():
            why = ": no double has that value, so no document can have it"
        raise UsageError(f"the filter {text!r} needs a number, not {value.strip()!r}{why}")
    return number


def _range(text: str, column: str, low: float | None, high: float | None) -> NumberFilter:
    if low is None and high is None:
        raise UsageError(f"the filter {text!r} has no number; write {column}=low..high")
    if low is not None and high is not None and low > high:
        raise UsageError(
            f"the filter {text!r} can match nothing: {number_text(low)} is above"
            f" {number_text(high)}"
        )
    return NumberFilter(column, low=low, high=high)


def _from_value(column: str, wanted: FilterValues, info: IndexInfo) -> Filter:
    """Return a filter from an entry of a mapping."""
    if is_near(column, info):
        parts = wanted.split(",") if isinstance(wanted, str) else wanted
        return near_filter(
            f"{column}={wanted!r}", [*parts] if isinstance(parts, Sequence) else [], info
        )
    column = _known_column(column, (*info.tag_columns, *info.compared_columns), "filter by")
    name = f"{column}={wanted!r}"
    if column in info.date_columns:
        if isinstance(wanted, tuple) and len(wanted) == 2:
            low, high = (None if bound is None else str(bound) for bound in wanted)
            return date_between(name, column, low, high)
        return date_filter(name, column, "=", "" if wanted is None else str(wanted))
    if column not in info.number_columns:
        values: Sequence[Any] = (
            [wanted] if wanted is None or isinstance(wanted, str | int | float | date) else wanted
        )
        texts = tuple(
            str(value) if isinstance(value, date) else value_text(value)
            for value in values
            if value is not None
        )
        if not texts or len(texts) != len(values) or not all(texts):
            raise UsageError(f"the filter {name} has an empty value")
        return TagFilter(column, texts)
    if isinstance(wanted, str):
        return _number_filter(name, column, "=", wanted)
    if isinstance(wanted, tuple) and len(wanted) == 2:
        least, most = (None if bound is None else _number(name, str(bound)) for bound in wanted)
        return _range(name, column, least, most)
    if isinstance(wanted, int | float):
        return _range(name, column, _number(name, str(wanted)), _number(name, str(wanted)))
    raise UsageError(
        f"the filter {name} does not fit {column}, which is kept as a number:"
        f" give a number or a tuple (low, high)"
    )


def _check_ready(ready: Filter, info: IndexInfo) -> Filter:
    """Return a filter that was built by the caller, if its column is of its kind."""
    if isinstance(ready, NearFilter):
        check_places(near_text(ready), info)
        check_near(near_text(ready), ready)
        return ready
    numbers = isinstance(ready, NumberFilter)
    if isinstance(ready, TagFilter):
        check_several(ready.values, "TagFilter.values")
    known = info.compared_columns if numbers else info.tag_columns
    column = _known_column(ready.column, known, f"filter by {'number' if numbers else 'tag'}")
    return replace(ready, column=column)
