"""A query as Vespa takes it.

What a user wrote (words, filter values, ids) travels as parameters and never inside YQL. Words were
already cut and stemmed by `clipsearch.text`, so Vespa is told to take them as they are: any grammar
of its own gives some characters a meaning, and sends "007" as the number 7.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from clipsearch.documents import PARTS
from clipsearch.engine import RERANK_COUNT, EngineQuery, IndexInfo, fused_weights, target_hits
from clipsearch.engines.vespa.caption_words import WORDS
from clipsearch.engines.vespa.filter_fields import FILTER_FORM, NUMBER_KEYS, TAG_VALUES, tag_value
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.operations import DATA_SET, DOCUMENT_TYPE, hit_fields
from clipsearch.engines.vespa.restrictions import decimal, restricted_to, with_number
from clipsearch.engines.vespa.term_clauses import optional_clauses, ranked_by, required_clauses
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.sorting import Sort
from finetune.errors import UsageError

# With these, the 100 nearest of the recorded 610 and 1,086 documents were exactly the true ones.
EXPLORE_ADDITIONAL_HITS = 900
# Rank profiles whose score is a number of the document: of words, and beside a vector.
BY_NUMBER = "by_number"
BY_NUMBER_NEAR = "by_number_near"
# Groups of all facets together may not exceed 10,000 by Vespa's default.
_MOST_FACET_VALUES = 1000
_MOST_GROUPS = 9000

# Attributes that the schema of an earlier version may lack: those for filters, with which the
# others of their form came, and the fields of every later form.
LATER_FIELDS = (
    TAG_VALUES,
    NUMBER_KEYS,
    WORDS,
    *(name for name, part in PARTS.items() if part.form > FILTER_FORM),
)

_ONE_OF_EACH = (
    "all(group(look) max({}) order(-max(relevance()))"
    " each(max(1) output(count()) each(output(summary()))))"
)


def search_body(
    query: EngineQuery,
    info: IndexInfo,
    timeout: float,
    *,
    exact: bool = False,
    least_cosine: float | None = None,
) -> dict[str, Json]:
    """Return the JSON of a POST to /search/ for the hits of a query, already checked.

    Facets are counted over what it matches; for `vector` without a cut-off they are `count_body`'s.

    Args:
        query: What is asked.
        info: Of the index.
        timeout: Seconds that Vespa may take.
        exact: Compare the vector with all that pass the filters. Vespa then matches documents
            beyond the nearest too.
        least_cosine: Match none by vector whose cosine is below, beside the query's own bound;
            None for no such bound.
    """
    body: dict[str, Json] = {
        "hits": query.k,
        "offset": query.offset,
        "ranking.profile": _profile(query),
        "language": info.language,
        "timeout": f"{timeout:g}s",
        "presentation.bolding": False,
    }
    if query.is_cut_after_ranking:
        # All hits up to the page's last, so that what has the least score can be counted.
        body |= {"hits": min(query.offset + query.k, RERANK_COUNT), "offset": 0}
    elif query.min_score is not None:
        # Vespa keeps what scores more than the limit.
        body["ranking.rankScoreDropLimit"] = math.nextafter(query.min_score, -math.inf)
    where, is_one = _found_by(query, body, exact, least_cosine)
    restrictions = restricted_to(query, info, body)
    if not query.ranking.uses_words:
        restrictions = required_clauses(query, body) + restrictions
    if query.sort is not None and query.sort.is_by_number:
        restrictions += with_number(query.sort.by, info, body)
        body["input.query(by)"] = {query.sort.by: 1.0 if query.sort.descending else -1.0}
    if restrictions and not is_one:
        where = f"({where})"
    where = " and ".join([where, *restrictions])
    fields = ", ".join(hit_fields(info.document_form))
    body["yql"] = f"select {fields} from {DOCUMENT_TYPE} where {where}{_order(query)}"
    groups = _facet_groups(query) if not counts_passing(query) else []
    if query.collapse:
        body |= {"hits": 0, "offset": 0}
        groups.append(_ONE_OF_EACH.format(query.offset + query.k))
    if groups:
        body["yql"] += f" | {_grouping(groups)}"
    if query.ranking.weighted:
        lexical, cosine, _ = fused_weights(query, info)
        body["input.query(bm25_weight)"] = lexical
        body["input.query(vector_weight)"] = cosine
    return body


def counts_passing(query: EngineQuery) -> bool:
    """Return whether total and facets are of all that pass the filters, whatever is found."""
    cut = query.min_score is not None or query.min_cosine is not None
    return query.mode == "vector" and not cut and query.sort is None and not query.collapse


def most_facet_values(query: EngineQuery) -> int:
    """Return how many values of each facet are asked for."""
    share = _MOST_GROUPS // max(len(query.facets), 1)
    return share if query.all_values else min(_MOST_FACET_VALUES, share)


def _profile(query: EngineQuery) -> str:
    """Return the rank profile: what it computes first decides the order, unless a text does."""
    if query.sort is not None and query.sort.is_by_number:
        return BY_NUMBER_NEAR if query.ranking.needs_vector else BY_NUMBER
    if query.sort is not None and query.ranking.reranks is not None:
        return query.ranking.reranks
    return query.mode or "unranked"


def _order(query: EngineQuery) -> str:
    """Return the order as YQL has it; nothing where the rank profile makes it."""
    sort = query.sort or (Sort("id") if query.mode is None else None)
    if sort is None or sort.is_by_number:
        return ""
    return f" order by {sort.by}{' desc' if sort.descending else ''}"


def nearest_body(
    query: EngineQuery, info: IndexInfo, timeout: float, hits: int, *, exact: bool
) -> dict[str, Json]:
    """Return the JSON of a search for the nearest alone that pass the filters of a hybrid.

    The `hits` nearest; for 0 none are shown, but the candidates that were found are counted.
    """
    body: dict[str, Json] = {
        "hits": hits,
        "ranking.profile": "vector",
        "timeout": f"{timeout:g}s",
    }
    alone = replace(
        query, mode="vector", k=hits, offset=0, candidates=hits or query.candidates,
        min_score=None, min_cosine=None, sort=None, collapse=False,
    )  # fmt: skip
    clauses = [_nearest(alone, body, exact), *required_clauses(query, body)]
    clauses += restricted_to(query, info, body)
    body["yql"] = f"select id from {DOCUMENT_TYPE} where {' and '.join(clauses)}"
    return body


def count_body(
    timeout: float, query: EngineQuery | None = None, info: IndexInfo | None = None
) -> dict[str, Json]:
    """Return the JSON of a search that returns no hits, but the number of documents.

    Of all, or of those that pass the filters of `query`, with its facets, in the index of `info`.
    """
    body: dict[str, Json] = {
        "hits": 0,
        "ranking.profile": "unranked",
        "timeout": f"{timeout:g}s",
    }
    where = ["true"]
    if query is not None and info is not None:
        where += [*required_clauses(query, body), *restricted_to(query, info, body)]
    body["yql"] = f"select id from {DOCUMENT_TYPE} where {' and '.join(where)}"
    if query is not None and query.facets:
        body["yql"] += f" | {_grouping(_facet_groups(query))}"
    return body


def holding_body(timeout: float, token: str) -> dict[str, Json]:
    """Return the JSON of a search that counts the documents with a token."""
    body = count_body(timeout)
    (where,) = optional_clauses(EngineQuery("bm25", (token,)), body)
    return {**body, "yql": f"select id from {DOCUMENT_TYPE} where ({where})"}


def data_sets_body(timeout: float) -> dict[str, Json]:
    """Return the JSON of a search that counts the documents of each data set."""
    body = count_body(timeout)
    body["yql"] += f" | all(group({DATA_SET}) max({_MOST_GROUPS}) each(output(count())))"
    return body


def fields_body(timeout: float) -> dict[str, Json]:
    """Return the JSON of a search that fails where the schema lacks one of LATER_FIELDS.

    Only a field in `where` does: an unknown one of `select` is left out in silence.
    """
    texts = " or ".join(f"{name} contains @v" for name in LATER_FIELDS if name != NUMBER_KEYS)
    return {
        "yql": f"select id from {DOCUMENT_TYPE} where {texts} or range({NUMBER_KEYS}, 0L, 0L)",
        "v": tag_value("no", "such"),
        "hits": 0,
        "ranking.profile": "unranked",
        "timeout": f"{timeout:g}s",
    }


def check_filters(query: EngineQuery) -> None:
    """Raise UsageError for a filter that Vespa would refuse, or take and answer wrongly."""
    for one in query.filters:
        if isinstance(one, NumberFilter):
            bounds = [bound for bound in (one.low, one.high) if bound is not None]
            if not bounds or not all(math.isfinite(bound) for bound in bounds):
                raise UsageError(f"the filter on {one.column} needs a finite number as its bound")
        elif isinstance(one, TagFilter) and not (one.values and all(one.values)):
            raise UsageError(f"the filter on {one.column} has an empty value")


def _nearest(
    query: EngineQuery, body: dict[str, Json], exact: bool, least_cosine: float | None = None
) -> str:
    """Return the clause for the nearest by vector; adds its parameters to `body`."""
    assert query.vector is not None
    body["input.query(q)"] = [float(value) for value in query.vector]
    settings = [
        f"targetHits:{target_hits(query)}",
        "approximate:false" if exact else f"hnsw.exploreAdditionalHits:{EXPLORE_ADDITIONAL_HITS}",
    ]
    if least_cosine is not None:
        settings.append(f"distanceThreshold:{decimal(1.0 - least_cosine)}")
    return f"({{{', '.join(settings)}}}nearestNeighbor(embedding, q))"


def _found_by(
    query: EngineQuery, body: dict[str, Json], exact: bool, least_cosine: float | None
) -> tuple[str, bool]:
    """Return the clause of what finds documents, and whether it is one; adds its parameters."""
    if query.mode is None:
        return "true", True
    uses_words = query.ranking.uses_words
    required = required_clauses(query, body) if uses_words else []
    parts = []
    if query.ranking.needs_vector:
        bounds = [each for each in (least_cosine, query.min_cosine) if each is not None]
        # Beside required words the vector finds nothing more: all that match are compared.
        parts.append(_nearest(query, body, exact or bool(required), max(bounds, default=None)))
    words = optional_clauses(query, body) if uses_words else []
    if required:
        return ranked_by(required, [*parts, *words]), True
    if words:
        parts.append(f"({' or '.join(words)})")
    return " or ".join(parts), len(parts) == 1


def _grouping(groups: Sequence[str]) -> str:
    return groups[0] if len(groups) == 1 else f"all({' '.join(groups)})"


def _facet_groups(query: EngineQuery) -> list[str]:
    most = most_facet_values(query)
    groups = []
    for column in query.facets:
        # Grouping takes no parameters; a column is our own word for a manifest's column.
        name = column.replace("\\", "\\\\").replace('"', '\\"')
        ordered = f"max({most}) order(-count()) each(output(count()))"
        groups.append(f'all(group(tags{{"{name}"}}) {ordered})')
    return groups
