"""Filters as clauses of a statement; what a user wrote travels as parameters.

A filter is tight where `nearestNeighbor` is told beforehand exactly what passes, or a neighbouring
number more: see `clipsearch.engines.vespa.filter_fields`. One that is not is right only where every
document is compared.
"""

import unicodedata
from decimal import Decimal

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa.filter_fields import (
    FILTER_FORM,
    MOST_COLUMNS,
    NUMBER_KEYS,
    TAG_VALUES,
    key_range,
    places_of,
    tag_value,
)
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.near import NearInBoxes
from clipsearch.engines.vespa.term_clauses import are_known_beforehand, excluding_clauses
from clipsearch.filtering import LATITUDE, LONGITUDE, Filter, NearFilter, NumberFilter, TagFilter
from clipsearch.storable import why_no_id


def restricted_to(query: EngineQuery, info: IndexInfo, body: dict[str, Json]) -> list[str]:
    """Return the clauses that must all hold beside what is searched.

    Adds their parameters to `body`.
    """
    clauses = []
    for number, one in enumerate(query.filters):
        if isinstance(one, NumberFilter):
            clauses += _number_clauses(one, f"f{number}", info, body)
        elif isinstance(one, NearFilter):
            clauses.append(_near_clause(one, number, info, body))
        elif _of_this_form(info):
            clauses.append(_tag_clause(one, number, body))
        else:
            clauses.append(_map_clause(one, number, body))
    possible = (id_ for id_ in query.exclude_ids if why_no_id(id_) is None)
    for number, left_out in enumerate(possible):
        body[f"x{number}"] = left_out
        clauses.append(f"!(id contains @x{number})")
    return clauses + excluding_clauses(query, body)


def with_number(column: str, info: IndexInfo, body: dict[str, Json]) -> list[str]:
    """Return the clauses that keep documents with a number in `column`.

    Of others a rank profile that sorts by it makes 0. Adds their parameter to `body`.
    """
    body["by"] = column
    exactly = "numbers contains sameElement(key contains @by, value > -1e300)"
    place = _place(column, info)
    if place is None:
        return [exactly]
    least, greatest = key_range(place, NumberFilter(column))
    return [f"range({NUMBER_KEYS}, {least}L, {greatest}L)", exactly]


def are_tight(query: EngineQuery, info: IndexInfo) -> bool:
    """Return whether every filter is, and words that restrict; ids left out always are."""
    return are_known_beforehand(query) and all(_is_tight(one, info) for one in query.filters)


def decimal(value: float) -> str:
    """Return a number without an exponent, which YQL's grammar takes only in some forms."""
    text = format(Decimal(repr(float(value))), "f")
    return text if "." in text else f"{text}.0"


def _of_this_form(info: IndexInfo) -> bool:
    return info.document_form >= FILTER_FORM


def _is_tight(one: Filter, info: IndexInfo) -> bool:
    if not _of_this_form(info):
        return False
    columns = (LATITUDE, LONGITUDE) if isinstance(one, NearFilter) else (one.column,)
    return isinstance(one, TagFilter) or None not in (_place(each, info) for each in columns)


def _place(column: str, info: IndexInfo) -> int | None:
    """Return the column's place.

    None where the documents have no keys for it, as far as is known here.
    """
    place = places_of(info.column_order).get(column)
    return place if _of_this_form(info) and place and place <= MOST_COLUMNS else None


def _tag_clause(one: TagFilter, number: int, body: dict[str, Json]) -> str:
    entries = dict.fromkeys(tag_value(one.column, value) for value in one.values)
    parts = []
    for place, entry in enumerate(entries):
        body[f"f{number}v{place}"] = entry
        parts.append(f"{TAG_VALUES} contains @f{number}v{place}")
    clause = " or ".join(parts)
    if one.exclude:
        return f"!({clause})"
    return clause if len(parts) == 1 else f"({clause})"


def _map_clause(one: TagFilter, number: int, body: dict[str, Json]) -> str:
    """Return the clause on the map itself, for documents of an earlier form.

    Their tags may be of either form.
    """
    body[f"f{number}"] = one.column
    spellings = [
        spelling
        for value in one.values
        for spelling in (value, *(unicodedata.normalize(form, value) for form in ("NFC", "NFD")))
    ]
    parts = []
    for place, value in enumerate(dict.fromkeys(spellings)):
        body[f"f{number}v{place}"] = value
        parts.append(f"value contains @f{number}v{place}")
    # "value in (...)" inside sameElement finds nothing, without an error.
    value = parts[0] if len(parts) == 1 else f"({' or '.join(parts)})"
    clause = f"tags contains sameElement(key contains @f{number}, {value})"
    return f"!({clause})" if one.exclude else clause


def _number_clauses(
    one: NumberFilter, name: str, info: IndexInfo, body: dict[str, Json]
) -> list[str]:
    """Return the clauses of a range; `name` is the parameter that holds its column."""
    body[name] = one.column
    bounds = []
    if one.low is not None:
        bounds.append(f"value {'>' if one.low_open else '>='} {decimal(one.low)}")
    if one.high is not None:
        bounds.append(f"value {'<' if one.high_open else '<='} {decimal(one.high)}")
    exactly = f"numbers contains sameElement(key contains @{name}, {', '.join(bounds)})"
    place = _place(one.column, info)
    if place is None:
        return [exactly]
    least, greatest = key_range(place, one)
    return [f"range({NUMBER_KEYS}, {least}L, {greatest}L)", exactly]


def _near_clause(one: NearFilter, number: int, info: IndexInfo, body: dict[str, Json]) -> str:
    assert isinstance(one, NearInBoxes)
    parts = []
    for latitudes, longitudes in one.alternatives:
        clauses = [
            *_number_clauses(latitudes, f"f{number}a", info, body),
            *_number_clauses(longitudes, f"f{number}o", info, body),
        ]
        parts.append(f"({' and '.join(clauses)})")
    for place, id in enumerate(one.ids):
        body[f"f{number}i{place}"] = id
        parts.append(f"id contains @f{number}i{place}")
    return parts[0] if len(parts) == 1 else f"({' or '.join(parts)})"
