"""The searches that are sent to Vespa: filters, facets, and nothing of what a user wrote."""

from pathlib import Path

import numpy as np
import pytest
from vespa_replies import EARLIER, Mock, by_name, engine_over, unit_vector

from clipsearch.engine import EngineQuery
from clipsearch.engines.vespa.http.connection import Reply
from clipsearch.filtering import NumberFilter, TagFilter
from finetune.errors import UsageError


def test_user_text_never_enters_the_statement() -> None:
    transport = Mock(Reply(200, b'{"root": {"fields": {"totalCount": 0}}}'))
    nasty = '"; select * from image where true; @x0 {"'
    query = EngineQuery(
        "hybrid",
        tokens=(nasty, "two"),
        vector=unit_vector(),
        filters=(TagFilter(nasty, (nasty, "b")), TagFilter("c", (nasty,), exclude=True)),
        exclude_ids=(nasty,),
    )
    engine_over(transport).search(query)
    for _, _, body in transport.sent:
        assert nasty not in body["yql"]
    assert body["yql"].endswith(
        " and (tag_values contains @f0v0 or tag_values contains @f0v1)"
        " and !(tag_values contains @f1v0) and !(id contains @x0)"
    )
    assert [body[name] for name in ("t0", "x0")] == [nasty] * 2
    assert [body[name] for name in ("f0v0", "f1v0")] == [f"{nasty}\t{nasty}", f"c\t{nasty}"]
    transport.sent.clear()
    engine_over(transport, EARLIER).search(query)
    for _, _, body in transport.sent:
        assert nasty not in body["yql"]
    assert body["yql"].endswith(
        " and tags contains sameElement(key contains @f0, (value contains @f0v0 or value contains"
        " @f0v1)) and !(tags contains sameElement(key contains @f1, value contains @f1v0))"
        " and !(id contains @x0)"
    )
    assert [body[name] for name in ("t0", "f0", "f0v0", "f1v0", "x0")] == [nasty] * 5


def test_filters_are_the_recorded_forms(recorded: Path) -> None:
    def where(*filters: NumberFilter | TagFilter) -> str:
        transport = Mock(Reply(200, b'{"root": {"fields": {"totalCount": 0}}}'))
        query = EngineQuery("bm25", tokens=("circl",), filters=filters)
        engine_over(transport, EARLIER).search(query)
        body = transport.sent[0][2]
        clause = body["yql"].partition(" and ")[2]
        for name in sorted((n for n in body if n.startswith("f")), reverse=True):
            clause = clause.replace(f"@{name}", f'"{body[name]}"')
        return str(clause)

    def recorded_clause(name: str) -> str:
        return str(by_name(recorded, name)["request"]["body"]["yql"]).partition(" and ")[2]

    nature = TagFilter("category", ("nature",))
    assert where(nature) == recorded_clause("search-filter-same-element")
    assert where(TagFilter("category", ("nature",), exclude=True)) == recorded_clause(
        "search-filter-not"
    )
    assert where(NumberFilter("words", low=20)) == recorded_clause("search-filter-range")
    two = where(NumberFilter("words", low=10, high=12, high_open=True))
    assert two == recorded_clause("search-filter-range-two").replace("10", "10.0").replace(
        "12", "12.0"
    )
    assert "value >= -0.00000015, value < 200000000000000000000.0" in where(
        NumberFilter("words", low=-1.5e-7, high=2e20, high_open=True)
    )


def test_facets_are_the_recorded_form(recorded: Path) -> None:
    transport = Mock(Reply(200, b'{"root": {"fields": {"totalCount": 0}}}'))
    query = EngineQuery("bm25", tokens=("circl",), facets=("category", "set"))
    page = engine_over(transport).search(query)
    assert page.facets == {"category": (), "set": ()}
    ours = transport.sent[0][2]["yql"].partition(" | ")[2]
    theirs = by_name(recorded, "search-facets-two")["request"]["body"]["yql"].partition(" | ")[2]
    assert ours.replace("max(1000)", "max(3)") == theirs


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (EngineQuery("vector"), "needs a vector"),
        (EngineQuery("hybrid", tokens=("a",)), "needs a vector"),
        (EngineQuery("vector", vector=unit_vector()[:63]), "64 values"),
        (EngineQuery("vector", vector=unit_vector() * np.nan), "not finite"),
        (EngineQuery("vector", vector=unit_vector() * 2), "length 2.0000"),
        (EngineQuery("bm25", tokens=("a",), k=0), "at least 1"),
        (EngineQuery("bm25", tokens=("a",), filters=(TagFilter("c", ("",)),)), "empty value"),
        (EngineQuery("bm25", tokens=("a",), filters=(NumberFilter("n"),)), "bound"),
        (
            EngineQuery("bm25", tokens=("a",), filters=(NumberFilter("n", low=float("inf")),)),
            "bound",
        ),
    ],
)
def test_a_query_that_cannot_work_is_not_sent(query: EngineQuery, reason: str) -> None:
    transport = Mock(Reply(200, b"{}"))
    with pytest.raises(UsageError, match=reason):
        engine_over(transport).search(query)
    assert transport.sent == []


def test_a_text_without_words_matches_nothing_and_is_no_error() -> None:
    transport = Mock(Reply(500, b""))
    page = engine_over(transport).search(EngineQuery("bm25", facets=("class",)))
    assert (page.hits, page.total, page.facets) == ((), 0, {"class": ()})
    assert transport.sent == []
