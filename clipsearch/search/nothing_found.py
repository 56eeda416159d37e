"""Why a query found nothing, or less than was asked for, where that can be told.

A filter's value, no captions at all, too few candidates. Asked only where it is so: a few more
requests, whose cost does not grow with the index but for one count over a tag.
"""

from itertools import islice

import numpy as np

from clipsearch.engine import Engine, EngineQuery, Page
from clipsearch.filtering import Filter, NearFilter, NumberFilter, TagFilter
from clipsearch.search.limits import MAX_CANDIDATES
from finetune.console import printable
from finetune.text.dates import date_text
from finetune.text.numerals import number_text

_VALUES_NAMED = 5
_DOCUMENTS_LOOKED_AT = 200


def why_nothing(engine: Engine, query: EngineQuery) -> list[str]:
    """Return sentences for the user; none where it cannot be told. Raises EngineError."""
    if not _total(engine, query, ()):
        return []
    notes = [
        _no_document_has(engine, query, one)
        for one in query.filters
        if not _total(engine, query, (one,))
    ]
    if not notes and len(query.filters) > 1 and not _total(engine, query, query.filters):
        notes.append("each of these filters has documents, but none passes them all")
    if notes or query.mode is None:
        return notes
    if query.ranking.uses_words and not query.ranking.needs_vector:
        first = list(islice(engine.visit(), _DOCUMENTS_LOOKED_AT))
        if not any(document.captions for document in first):
            notes.append(
                "these documents have no captions, in which words could be found; search by what"
                " the pictures show: --mode vector"
            )
    return notes


def _no_document_has(engine: Engine, query: EngineQuery, one: Filter) -> str:
    if isinstance(one, NearFilter):
        place = f"{one.latitude:g},{one.longitude:g}"
        return f"no document lies within {one.meters / 1000:g} km of {place}"
    column = printable(one.column)
    if isinstance(one, NumberFilter):
        written = date_text if one.column in engine.info.date_columns else number_text
        low = "" if one.low is None else written(one.low)
        high = "" if one.high is None else written(one.high)
        between = low if low == high else f"{low}..{high}"
        return f"no document has a {column} of {between}"
    assert isinstance(one, TagFilter)
    values = printable(" or ".join(one.values))
    if one.exclude:
        return f"every document has {column}={values}"
    counted = _ask(engine, query, (), facets=(one.column,)).facets.get(one.column, ())
    named = ", ".join(f"{printable(value)} ({count:,})" for value, count in counted[:_VALUES_NAMED])
    more = ", …" if len(counted) > _VALUES_NAMED else ""
    return f"no document has {column}={values}; there are {named}{more}"


def _total(engine: Engine, query: EngineQuery, filters: tuple[Filter, ...]) -> int:
    return _ask(engine, query, filters).total


def _ask(
    engine: Engine, query: EngineQuery, filters: tuple[Filter, ...], facets: tuple[str, ...] = ()
) -> Page:
    """Ask for what passes the filters, whatever it is: by a vector, which every document has."""
    vector = query.vector
    if vector is None:
        vector = np.zeros(engine.info.dimension, np.float32)
        vector[0] = 1
    return engine.search(
        EngineQuery(mode="vector", vector=vector, k=1, filters=filters, facets=facets)
    )


def fewer_than_asked(engine: Engine, query: EngineQuery, answer: Page) -> list[str]:
    """Return a note where a hybrid ends before the page does, and more candidates would go on."""
    last = min(query.offset + query.k, MAX_CANDIDATES)
    joins = query.ranking.uses_words and query.ranking.needs_vector
    if not joins or not query.candidates <= answer.total < last:
        return []
    if query.min_score is not None or query.min_cosine is not None or query.collapse:
        return []
    if engine.count() <= answer.total:
        return []
    return [
        f"a hybrid looks among the matches by word and the {query.candidates:,} nearest:"
        f" --candidates {last:,} finds more"
    ]
