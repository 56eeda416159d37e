"""Facets count the spellings of one tag together, as filters find them, in both engines."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from local_collection import make_document

from clipsearch.engine import EngineQuery
from clipsearch.engines.facet_counts import counts_by_tag
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.answers import parse_search
from clipsearch.filtering import TagFilter
from clipsearch.folding import fold
from clipsearch.operations import Upsert

SPELLINGS = {"beach": 3, "Beach": 5, "BEACH": 1, "caf\u00e9": 2, "Cafe\u0301": 2, "sea": 4}
TOGETHER = (("Beach", 9), ("Cafe\u0301", 4), ("sea", 4))


def test_the_most_frequent_spelling_is_shown() -> None:
    assert counts_by_tag(SPELLINGS) == TOGETHER
    assert counts_by_tag({}) == ()


@given(st.dictionaries(st.text("aAbB\u00e9", min_size=1, max_size=3), st.integers(1, 5)))
def test_nothing_is_lost_whatever_the_order(spellings: dict[str, int]) -> None:
    counts = counts_by_tag(spellings)
    assert counts == counts_by_tag(reversed(spellings.items()))
    totals: Counter[str] = Counter()
    for value, count in spellings.items():
        totals[fold(value)] += count
    assert {fold(value): count for value, count in counts} == dict(totals)
    assert all(value in spellings for value, _ in counts)


def test_the_embedded_engine_counts_as_it_filters(engine: LocalEngine) -> None:
    values = [value for value, count in SPELLINGS.items() for _ in range(count)]
    documents = [
        replace(make_document(number), captions=("word",), tags={"class": value})
        for number, value in enumerate(values)
    ]
    assert all(each.error is None for each in engine.feed(map(Upsert, documents)))
    engine.finish_feed()
    page = engine.search(EngineQuery("bm25", ("word",), k=1, facets=("class",)))
    assert page.facets["class"] == TOGETHER
    for value, count in TOGETHER:
        query = EngineQuery("bm25", ("word",), filters=(TagFilter("class", (value,)),))
        assert engine.search(query).total == count


def test_what_vespa_groups_is_counted_together() -> None:
    groups = [
        {"id": f"group:string:{value}", "value": value, "fields": {"count()": count}}
        for value, count in sorted(SPELLINGS.items(), key=lambda pair: -pair[1])
    ]
    listed = {"id": "grouplist:tags", "label": 'tags{"class"}', "children": groups}
    root = {
        "fields": {"totalCount": 17},
        "coverage": {"coverage": 100, "documents": 17, "full": True, "nodes": 1},
        "children": [{"id": "group:root:0", "children": [listed]}],
    }
    assert parse_search(200, {"root": root}, "target").facets == {"class": TOGETHER}
