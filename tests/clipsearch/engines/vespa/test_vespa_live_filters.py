"""Against a real Vespa: a filter costs no hit that passes it, in any mode.

A third of the documents is of class dog and near every query, so that a search that only drops what
fails the filter afterwards finds a part of the others, or none. `place` has dogs too, and every
`year` is above every `size`: a filter on one column must not be taken for one on another.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from live_vespa import DIMENSION, DOCUMENTS, Place, find_place, name_index, put_all
from vespa_recorded import assert_same_pages

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.vespa.feeding import feed
from clipsearch.engines.vespa.filter_fields import NUMBER_KEYS, TAG_VALUES
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import ColumnPlaces, write_info
from clipsearch.engines.vespa.operations import DerivedFields
from clipsearch.engines.vespa.searching import EARLIER_FORM
from clipsearch.filtering import Filter, NumberFilter, TagFilter
from clipsearch.modes import MODES, Mode

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

INFO = IndexInfo(DIMENSION, tag_columns=("class", "place"), number_columns=("size", "year"))
DRIFT = 1e-2
HITS = 30

FILTERS: dict[str, tuple[Filter, ...]] = {
    "class!=dog": (TagFilter("class", ("dog",), exclude=True),),
    "class=bird": (TagFilter("class", ("Bird",)),),
    "class=bird|cat": (TagFilter("class", ("bird", "cat")),),
    "place=dog": (TagFilter("place", ("dog",)),),
    "place=café, decomposed": (TagFilter("place", ("cafe\u0301",)),),
    "size>=99": (NumberFilter("size", low=99),),
    "size>98.5, <99.5": (NumberFilter("size", low=98.5, high=99.5, low_open=True, high_open=True),),
    "year=2003": (NumberFilter("year", low=2003, high=2003),),
    "both": (TagFilter("class", ("dog",), exclude=True), NumberFilter("size", high=10)),
    "nothing": (TagFilter("class", ("no such class",)),),
    "none": (),
}
Row = tuple[str, str, float, float]


def row(number: int, near: bool) -> Row:
    """Class, place, size and year of a document."""
    name = "dog" if near else ("cat", "bird", "Bird")[number % 3]
    place = "dog" if not near and number % 50 == 0 else ("beach", "café")[number % 2]
    size = 99.0 if not near and number % 60 == 7 else float(number % 90)
    return name, place, size, float(2000 + number % 25)


@dataclass(frozen=True)
class Filtered:
    """The same documents on Vespa and in an embedded index, and queries near the dogs."""

    place: Place
    local: LocalEngine
    documents: list[Document]
    queries: list[np.ndarray]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filtered]:
    found = find_place()
    found.empty()
    found.deploy(dimension=DIMENSION, precision="float")
    engine = found.engine()
    name_index(engine, tag_columns=INFO.tag_columns, number_columns=INFO.number_columns)
    dice = np.random.default_rng(17)
    center = unit(dice.standard_normal(DIMENSION))
    documents = []
    for number in range(3 * DOCUMENTS // 4):
        near = number % 3 == 0
        noise = unit(dice.standard_normal(DIMENSION))
        class_, place, size, year = row(number, near)
        documents.append(
            Document(
                f"f/{number:05}.jpg",
                (f"a {class_.lower()} and a red ball" if number % 4 else "a ball",),
                f"f/{number:05}.jpg",
                tags={"class": class_, "place": place},
                numbers={"size": size, "year": year},
                embedding=unit(center + 0.3 * noise) if near else noise,
            )
        )
    put_all(engine, documents)
    local = LocalEngine.create(tmp_path_factory.mktemp("filtered") / "an.index", INFO)
    put_all(local, documents)
    queries = [unit(center + 0.2 * unit(dice.standard_normal(DIMENSION))) for _ in range(3)]
    yield Filtered(found, local, documents, queries)
    local.close()
    found.empty()


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def passes(document: Document, conditions: tuple[Filter, ...]) -> bool:
    """By the plainest reading of the filters that are used here."""
    for condition in conditions:
        if isinstance(condition, NumberFilter):
            value = document.numbers[condition.column]
            low = -np.inf if condition.low is None else condition.low
            high = np.inf if condition.high is None else condition.high
            if not low <= value <= high:
                return False
            if (condition.low_open and value == low) or (condition.high_open and value == high):
                return False
        else:
            wanted = {value.lower().replace("e\u0301", "é") for value in condition.values}
            if (document.tags[condition.column].lower() in wanted) == condition.exclude:
                return False
    return True


@pytest.mark.parametrize("name", FILTERS)
def test_the_nearest_that_pass_are_found(filtered: Filtered, name: str) -> None:
    engine = filtered.place.engine()
    passing = [one for one in filtered.documents if passes(one, FILTERS[name])]
    for vector in filtered.queries:
        query = EngineQuery("vector", vector=vector, k=HITS, filters=FILTERS[name])
        page = engine.search(query)
        cosines = sorted((float(one.embedding @ vector) for one in passing), reverse=True)  # type: ignore[operator]
        assert page.partial is None and page.total == len(passing)
        assert [hit.cosine for hit in page.hits] == pytest.approx(cosines[:HITS], abs=1e-5)
        assert {hit.document.id for hit in page.hits} <= {one.id for one in passing}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILTERS)
def test_every_mode_finds_what_the_embedded_engine_finds(
    filtered: Filtered, name: str, mode: Mode
) -> None:
    engine = filtered.place.engine()
    for vector in filtered.queries:
        query = EngineQuery(
            mode,
            tokens=() if mode == "vector" else ("bird", "dog"),
            vector=None if mode == "bm25" else vector,
            k=HITS,
            filters=FILTERS[name],
            facets=("class", "place"),
        )
        here, there = filtered.local.search(query), engine.search(query)
        assert there.partial is None
        assert_same_pages(here, there, query, relative=DRIFT)


def test_filters_on_a_page_further_on(filtered: Filtered, tmp_path: Path) -> None:
    engine = filtered.place.engine()
    pages = [
        EngineQuery(
            "vector", vector=filtered.queries[0], k=20, offset=offset, filters=FILTERS[name]
        )
        for offset in (0, 20, 200)
        for name in ("class!=dog", "place=dog", "size>=99")
    ]
    for query in pages:
        here, there = filtered.local.search(query), engine.search(query)
        assert (here.total, len(here.hits)) == (there.total, len(there.hits)), query
        assert_same_pages(here, there, query, relative=DRIFT)


def test_documents_of_an_earlier_version_are_found_and_brought_to_this_form(
    filtered: Filtered,
) -> None:
    """Run last: it takes the fields for filters away, as the first release had none."""
    engine = filtered.place.engine()
    client = connect(filtered.place.url)
    info = engine.info
    taken = (
        DerivedFields(document.id, {TAG_VALUES: [], NUMBER_KEYS: []})
        for document in filtered.documents
    )
    places = ColumnPlaces(info, engine.change_info)
    assert all(outcome.error is None for outcome in feed(client, taken, info, places))
    write_info(client, replace(info, document_form=1, column_order=()))
    earlier = filtered.place.engine()
    queries = [
        EngineQuery("vector", vector=filtered.queries[0], k=HITS, filters=filters)
        for filters in FILTERS.values()
        if filters
    ]
    before = [earlier.search(query) for query in queries]
    assert all(EARLIER_FORM in page.notes for page in before)
    assert earlier.upgrade(lambda: None) == len(filtered.documents)
    assert sorted(earlier.info.column_order) == ["size", "year"]
    now = filtered.place.engine()
    for query, page in zip(queries, before, strict=True):
        again = now.search(query)
        assert again.notes == () and again.total == page.total
        assert_same_pages(again, page, query)
        assert_same_pages(filtered.local.search(query), page, query, relative=DRIFT)
