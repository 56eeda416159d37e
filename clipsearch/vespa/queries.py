"""A query as Vespa takes it.

What a user wrote (words, filter values, ids) travels as parameters and never inside YQL. Words were
already cut and stemmed by `clipsearch.text`, so Vespa is told to take them as they are: any grammar
of its own gives some characters a meaning, and sends "007" as the number 7.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from clipsearch.documents import UNIT_LENGTH_TOLERANCE, Embedding
from clipsearch.engine import (
    EngineQuery,
    Filter,
    IndexInfo,
    NumberFilter,
    TagFilter,
    fused_weights,
)
from clipsearch.storable import why_no_id
from clipsearch.vespa.connection import Json
from clipsearch.vespa.operations import DOCUMENT_TYPE, FIELDS
from finetune.errors import UsageError

# With these, the 100 nearest of the recorded 610 and 1,086 documents were exactly the true ones.
EXPLORE_ADDITIONAL_HITS = 900
# Groups of all facets together may not exceed 10,000 by Vespa's default.
MOST_FACET_VALUES = 1000
_MOST_GROUPS = 9000

_WORD = "captions contains ({{stem:false, normalizeCase:false, accentDrop:false}}@t{0})"
_WEIGHTED = ("hybrid", "hybrid-rrf", "hybrid-normalized")


def search_body(query: EngineQuery, info: IndexInfo, timeout: float) -> dict[str, Json]:
    """The JSON of a POST to /search/.

    For `vector` with facets, all candidates are asked for, so that exactly these can be counted:
    an exact search also matches documents beyond the nearest, and grouping would count them.

    Raises UsageError for a query that cannot work.
    """
    check_query(query, info)
    body: dict[str, Json] = {
        "hits": query.k,
        "offset": query.offset,
        "ranking.profile": query.mode,
        "language": info.language,
        "timeout": f"{timeout:g}s",
        "presentation.bolding": False,
    }
    where = _matching(query, body)
    restrictions = [_restriction(one, number, body) for number, one in enumerate(query.filters)]
    possible = (id_ for id_ in query.exclude_ids if why_no_id(id_) is None)
    for number, left_out in enumerate(possible):
        body[f"x{number}"] = left_out
        restrictions.append(f"!(id contains @x{number})")
    if restrictions and query.mode not in ("bm25", "vector") and query.tokens:
        where = f"({where})"
    where = " and ".join([where, *restrictions])
    yql = f"select {', '.join(FIELDS)} from {DOCUMENT_TYPE} where {where}"
    if query.facets and query.mode == "vector":
        body["hits"], body["offset"] = target_hits(query), 0
    elif query.facets:
        yql += " | " + _grouping(query.facets)
    body["yql"] = yql
    if query.mode in _WEIGHTED:
        lexical, cosine = fused_weights(query, info)
        body["input.query(bm25_weight)"] = lexical
        body["input.query(vector_weight)"] = cosine
    return body


def count_body(timeout: float) -> dict[str, Json]:
    """The JSON of a search that matches every picture and returns none."""
    return {
        "yql": f"select id from {DOCUMENT_TYPE} where true",
        "hits": 0,
        "ranking.profile": "unranked",
        "timeout": f"{timeout:g}s",
    }


def target_hits(query: EngineQuery) -> int:
    """Nearest by vector that are looked for; a deep page of `vector` raises them to its needs."""
    if query.mode == "vector":
        return max(query.candidates, query.offset + query.k)
    return query.candidates


def check_query(query: EngineQuery, info: IndexInfo) -> None:
    """Raise UsageError for what Vespa would refuse, or worse, would take and answer wrongly."""
    if query.k < 1 or query.offset < 0 or query.candidates < 1:
        raise UsageError("hits and candidates must be at least 1, and the offset not negative")
    for one in query.filters:
        if isinstance(one, NumberFilter):
            bounds = [bound for bound in (one.low, one.high) if bound is not None]
            if not bounds or not all(math.isfinite(bound) for bound in bounds):
                raise UsageError(f"the filter on {one.column} needs a finite number as its bound")
        elif not all(one.values) or not one.values:
            raise UsageError(f"the filter on {one.column} has an empty value")
    if query.mode == "bm25":
        return
    if query.vector is None:
        raise UsageError(f"the ranking {query.mode} needs a vector; only bm25 goes without one")
    check_query_vector(query.vector, info.dimension)


def check_query_vector(vector: Embedding, dimension: int) -> None:
    """Raise UsageError unless `vector` is a finite unit vector of `dimension` values.

    Vespa accepts a vector of too few values, and ranks by it without a word.
    """
    if vector.shape != (dimension,):
        raise UsageError(
            f"the query vector has the shape {vector.shape}, but the index holds {dimension} values"
        )
    if not np.isfinite(vector).all():
        raise UsageError("the query vector has values that are not finite")
    length = float(np.linalg.norm(vector))
    if abs(length - 1.0) > UNIT_LENGTH_TOLERANCE:
        raise UsageError(f"the query vector has the length {length:.4f}, must be 1")


def _matching(query: EngineQuery, body: dict[str, Json]) -> str:
    """The where clause of what is retrieved; adds its parameters to `body`."""
    parts = []
    if query.mode != "bm25":
        assert query.vector is not None
        body["input.query(q)"] = [float(value) for value in query.vector]
        search = "approximate:false"
        if not query.exact:
            search = f"hnsw.exploreAdditionalHits:{EXPLORE_ADDITIONAL_HITS}"
        target = target_hits(query)
        parts.append(f"({{targetHits:{target}, {search}}}nearestNeighbor(embedding, q))")
    if query.mode != "vector" and query.tokens:
        for number, token in enumerate(query.tokens):
            body[f"t{number}"] = token
        words = " or ".join(_WORD.format(number) for number in range(len(query.tokens)))
        parts.append(f"({words})")
    return " or ".join(parts)


def _restriction(one: Filter, number: int, body: dict[str, Json]) -> str:
    """A filter as a where clause; its column and values become parameters in `body`."""
    key = f"f{number}"
    body[key] = one.column
    if isinstance(one, TagFilter):
        for place, value in enumerate(one.values):
            body[f"{key}v{place}"] = value
        values = [f"value contains @{key}v{place}" for place in range(len(one.values))]
        # "value in (...)" inside sameElement finds nothing, without an error.
        value = values[0] if len(values) == 1 else f"({' or '.join(values)})"
        clause = f"tags contains sameElement(key contains @{key}, {value})"
        return f"!({clause})" if one.exclude else clause
    bounds = []
    if one.low is not None:
        bounds.append(f"value {'>' if one.low_open else '>='} {_decimal(one.low)}")
    if one.high is not None:
        bounds.append(f"value {'<' if one.high_open else '<='} {_decimal(one.high)}")
    return f"numbers contains sameElement(key contains @{key}, {', '.join(bounds)})"


def _decimal(value: float) -> str:
    """A number without an exponent, which YQL's grammar takes only in some forms."""
    text = format(Decimal(repr(float(value))), "f")
    return text if "." in text else f"{text}.0"


def _grouping(facets: Sequence[str]) -> str:
    most = min(MOST_FACET_VALUES, _MOST_GROUPS // len(facets))
    groups = []
    for column in facets:
        # Grouping takes no parameters; a column is our own word for a manifest's column.
        name = column.replace("\\", "\\\\").replace('"', '\\"')
        ordered = f"max({most}) order(-count()) each(output(count()))"
        groups.append(f'all(group(tags{{"{name}"}}) {ordered})')
    return groups[0] if len(groups) == 1 else f"all({' '.join(groups)})"
