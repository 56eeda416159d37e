"""Places within a radius, in both engines, against angles between vectors."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vespa_stub import StubVespa

from clipsearch.client.questions import filter_texts_of
from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.search import search
from clipsearch.engines.vespa import near as vespa_near
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.filtering import NearFilter, NumberFilter, TagFilter
from clipsearch.geography import EARTH_RADIUS_METERS, MOST_METERS, Box, are_near, boxes_around
from clipsearch.operations import Upsert
from clipsearch.search.filters import parse_filter, parse_filters
from finetune.errors import UsageError

INFO = IndexInfo(
    dimension=4, tag_columns=("class",), number_columns=("latitude", "longitude", "year")
)
CENTRES = ((0.0, 0.0), (48.1374, 11.5755), (-16.5, 179.9), (89.9, 40.0), (-90.0, 0.0), (65.0, -180))
RADII = (50.0, 3_000.0, 120_000.0, 2_500_000.0, MOST_METERS)


def meters(latitude: float, longitude: float, near: NearFilter) -> float:
    """The angle between two vectors, which is the haversine by another road."""

    def vector(latitude: float, longitude: float) -> np.ndarray:
        north, east = math.radians(latitude), math.radians(longitude)
        flat = math.cos(north)
        return np.array([flat * math.cos(east), flat * math.sin(east), math.sin(north)])

    one, other = vector(latitude, longitude), vector(near.latitude, near.longitude)
    angle = math.atan2(float(np.linalg.norm(np.cross(one, other))), float(one @ other))
    return angle * EARTH_RADIUS_METERS


def around(centre: tuple[float, float], radius: float, source: np.random.Generator) -> Document:
    """A place about the radius away, in any direction, by the plane's reckoning."""
    away = radius * source.uniform(0, 1.6) / EARTH_RADIUS_METERS
    turn = source.uniform(0, 2 * math.pi)
    here = math.radians(centre[0])
    north = math.asin(
        math.sin(here) * math.cos(away) + math.cos(here) * math.sin(away) * math.cos(turn)
    )
    east = math.atan2(
        math.sin(turn) * math.sin(away) * math.cos(here),
        math.cos(away) - math.sin(here) * math.sin(north),
    )
    longitude = (centre[1] + math.degrees(east) + 180) % 360 - 180
    if source.random() < 0.2 and longitude < 0:
        longitude += 360  # counted from 0 to 360
    vector = source.standard_normal(4)
    return Document(
        f"{source.integers(1 << 60)}",
        ("a dog",),
        tags={"class": "beach" if source.random() < 0.5 else "river"},
        numbers={"latitude": math.degrees(north), "longitude": longitude},
        embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    source = np.random.default_rng(5)
    made = [
        around(centre, radius, source) for centre in CENTRES for radius in RADII for _ in range(5)
    ]
    lacking = [replace(made[0], id="n1", numbers={"latitude": 0.0}), replace(made[1], id="n2")]
    lacking[1] = replace(lacking[1], numbers={"latitude": 95.0, "longitude": 0.0})
    return sorted([*made, *lacking], key=lambda document: document.id)


Ask = Callable[[EngineQuery], Page]


@pytest.fixture(scope="module", params=["local", "vespa"])
def ask(request: pytest.FixtureRequest, documents: list[Document]) -> Ask:
    if request.param == "local":
        collection = Collection.of(documents)
        bare = [replace(document, embedding=None) for document in documents]
        return lambda query: search(collection, query, INFO, lambda rows: [bare[r] for r in rows])
    patch = pytest.MonkeyPatch()
    patch.setattr(vespa_near, "STRIPS", (5,))  # the stub compares slowly
    request.addfinalizer(patch.undo)
    stub = StubVespa(dimension=4)
    stub.__enter__()
    request.addfinalizer(lambda: stub.__exit__(None, None, None))
    write_info(connect(stub.url), INFO)
    engine = VespaEngine.open(stub.url)
    request.addfinalizer(engine.close)
    assert not [each.error for each in engine.feed(map(Upsert, documents)) if each.error]
    return engine.search


@pytest.mark.parametrize("centre", CENTRES)
def test_what_lies_within_a_radius(
    ask: Ask, documents: list[Document], centre: tuple[float, float]
) -> None:
    for radius in RADII:
        near = NearFilter(*centre, radius)
        places = [
            (document, meters(*document.numbers.values(), near))
            for document in documents
            if len(document.numbers) == 2 and document.numbers["latitude"] <= 90
        ]
        assert all(abs(away - radius) > 1e-3 for _, away in places)
        expected = [document.id for document, away in places if away <= radius]
        page = ask(EngineQuery(None, k=1000, filters=(near,), facets=("class",)))
        assert [hit.document.id for hit in page.hits] == expected
        assert page.total == len(expected)
        assert sum(count for _, count in page.facets["class"]) == len(expected)


def test_beside_other_filters_and_a_vector(ask: Ask, documents: list[Document]) -> None:
    near = NearFilter(*CENTRES[2], RADII[3])
    vector = np.array([1, 0, 0, 0], np.float32)
    found = {
        document.id
        for document in documents
        if len(document.numbers) == 2
        and document.numbers["latitude"] <= 90
        and meters(*document.numbers.values(), near) <= near.meters
        and document.tags["class"] == "beach"
    }
    query = EngineQuery(
        "vector", vector=vector, k=200, filters=(TagFilter("class", ("beach",)), near)
    )
    page = ask(query)
    assert {hit.document.id for hit in page.hits} == found and found
    assert page.total == len(found)
    nothing = ask(replace(query, filters=(*query.filters, NumberFilter("year", low=1))))
    assert not nothing.hits


def test_more_strips_where_much_lies_at_the_edge(
    monkeypatch: pytest.MonkeyPatch, documents: list[Document]
) -> None:
    collection = Collection.of(documents)
    asked: list[int] = []

    def find(query: EngineQuery) -> tuple[tuple[Document, ...], int]:
        (edge,) = query.filters
        assert isinstance(edge, vespa_near.NearInBoxes)
        held = [each for each in documents if any(map(_holds(each), edge.boxes))]
        asked.append(len(held))
        return tuple(held[: query.k]), len(held)

    near = NearFilter(*CENTRES[1], RADII[4])
    monkeypatch.setattr(vespa_near, "STRIPS", (1, 24, 128))
    monkeypatch.setattr(vespa_near, "MOST_AT_EDGE", 5)
    query = vespa_near.in_boxes(EngineQuery(None, filters=(near,)), find)
    (found,) = query.filters
    assert isinstance(found, vespa_near.NearInBoxes) and len(asked) > 1
    assert asked == sorted(asked, reverse=True)
    passing = [
        each.id for each in documents if each.id in found.ids or any(map(_holds(each), found.boxes))
    ]
    naive = search(
        collection, EngineQuery(None, k=1000, filters=(near,)), INFO,
        lambda rows: [replace(documents[r], embedding=None) for r in rows],
    )  # fmt: skip
    assert passing == [hit.document.id for hit in naive.hits]
    monkeypatch.setattr(vespa_near, "MOST_AT_EDGE", -1)
    with pytest.raises(UsageError, match="take a smaller radius, or add another filter"):
        vespa_near.in_boxes(EngineQuery(None, filters=(near,)), find)


def _holds(document: Document) -> Callable[[Box], bool]:
    latitude, longitude = (document.numbers.get(n, math.nan) for n in ("latitude", "longitude"))
    return lambda box: box.south <= latitude <= box.north and box.west <= longitude <= box.east


@settings(max_examples=150, deadline=None)
@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(1, 7).map(lambda power: 10**power),
    st.sampled_from([1, 5, 24]),
    st.integers(0, 1 << 30),
)
def test_boxes_tell_what_is_within_and_what_is_not(
    latitude: float, longitude: float, radius: float, strips: int, seed: int
) -> None:
    near = NearFilter(latitude, longitude, radius)
    boxes = boxes_around(near, strips)
    source = np.random.default_rng(seed)
    for _ in range(20):
        document = around((latitude, longitude), radius, source)
        place = np.array([[*document.numbers.values()]])
        (within,) = are_near(place[:, 0], place[:, 1], near)
        in_inner = any(map(_holds(document), boxes.inner))
        at_edge = any(map(_holds(document), boxes.edge))
        assert within or not in_inner
        assert in_inner or at_edge or not within


centres = st.one_of(
    st.sampled_from(
        [(90.0, 0.0), (-90.0, 77.0), (89.9999, -180.0), (0.0, 180.0), (52.0, -179.9999)]
    ),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
)
radii = st.one_of(
    st.sampled_from([0.0, 1e-3, 1.0, MOST_METERS / 2, MOST_METERS]),
    st.floats(1, 7).map(lambda power: 10**power),
)


@settings(max_examples=60)
@given(centres, radii, st.sampled_from([3, 60, 2_000]), st.integers(0, 1 << 30))
def test_many_places_and_strips_find_what_a_plain_comparison_finds(
    centre: tuple[float, float], radius: float, most_at_edge: int, seed: int
) -> None:
    """In the form of either engine: compared at once, and as boxes with ids at their edge."""
    near = NearFilter(*centre, radius)
    latitudes, longitudes = _places_about(centre, radius, np.random.default_rng(seed))
    away = _angles(latitudes, longitudes, centre) * EARTH_RADIUS_METERS
    clear = np.abs(away - radius) > 1e-3  # closer to the edge, rounding decides
    within = away <= radius
    assert (are_near(latitudes, longitudes, near) == within)[clear].all()

    def in_any(boxes: Iterable[Box]) -> np.ndarray:
        found = np.zeros(len(latitudes), np.bool_)
        for box in boxes:
            found |= (
                (latitudes >= box.south) & (latitudes <= box.north)
                & (longitudes >= box.west) & (longitudes <= box.east)
            )  # fmt: skip
        return found

    def find(query: EngineQuery) -> tuple[tuple[Document, ...], int]:
        (edge,) = query.filters
        assert isinstance(edge, vespa_near.NearInBoxes)
        rows = np.flatnonzero(in_any(edge.boxes))
        return tuple(
            Document(str(row), (), numbers={"latitude": float(latitudes[row]),
                                            "longitude": float(longitudes[row])})
            for row in rows[: query.k].tolist()
        ), len(rows)  # fmt: skip

    with patch.object(vespa_near, "MOST_AT_EDGE", most_at_edge):
        try:
            (asked,) = vespa_near.in_boxes(EngineQuery(None, filters=(near,)), find).filters
        except UsageError as error:
            assert most_at_edge < len(latitudes) and "lie about" in str(error)
            return
    assert isinstance(asked, vespa_near.NearInBoxes)
    found = in_any(asked.boxes)
    found[[int(id) for id in asked.ids]] = True
    assert (found == within)[clear].all()


def _places_about(
    centre: tuple[float, float], radius: float, source: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """1,200 places: most about the edge, some anywhere, at the poles, and the centre itself."""
    away = radius / EARTH_RADIUS_METERS * source.uniform(0.9, 1.1, 800)
    turn = source.uniform(0, 2 * np.pi, 800)
    here = np.radians(centre[0])
    sines = np.sin(here) * np.cos(away) + np.cos(here) * np.sin(away) * np.cos(turn)
    north = np.arcsin(np.clip(sines, -1, 1))
    east = np.arctan2(
        np.sin(turn) * np.sin(away) * np.cos(here), np.cos(away) - np.sin(here) * np.sin(north)
    )
    anywhere = np.degrees(np.arcsin(source.uniform(-1, 1, 390)))
    latitudes = np.concatenate([np.degrees(north), anywhere, [centre[0], 90, -90, 90, -90] * 2])
    longitudes = np.concatenate(
        [
            centre[1] + np.degrees(east),
            source.uniform(-180, 180, 390),
            [centre[1], 0, 0, 180, -180] * 2,
        ]
    )
    longitudes = (longitudes + 180) % 360 - 180
    longitudes[(longitudes < 0) & (source.random(1200) < 0.3)] += 360  # counted from 0 to 360
    return latitudes, longitudes


def _angles(
    latitudes: np.ndarray, longitudes: np.ndarray, centre: tuple[float, float]
) -> np.ndarray:
    """Of vectors from the middle of the Earth, by their sine and cosine: no haversine."""

    def vectors(north: np.ndarray, east: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])

    ones = vectors(np.radians(latitudes), np.radians(longitudes))
    other = vectors(*np.radians(np.array(centre))[:, None])
    across = np.linalg.norm(np.cross(ones, other, axis=0), axis=0)
    return np.arctan2(across, (ones * other).sum(0))


@pytest.mark.parametrize(
    ("text", "meters"),
    [("near=48.1,11.6,5km", 5000), ("near = 48.1 , 11.6 , 500 m", 500),
     ("near=48.1,11.6,1MI", 1609.344)],
)  # fmt: skip
def test_reads_a_radius(text: str, meters: float) -> None:
    expected = NearFilter(48.1, 11.6, meters)
    assert parse_filter(text, INFO) == expected
    value = text.partition("=")[2]
    assert parse_filters({"near": value}, INFO) == (expected,)
    assert parse_filters({"near": (48.1, "11.6", value.split(",")[2])}, INFO) == (expected,)
    assert parse_filters([expected], INFO) == (expected,)
    (again,) = filter_texts_of([expected], INFO)
    assert parse_filter(again, INFO) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("near=48.1,11.6", "is no radius; write near=latitude"),
        ("near=48.1,11.6,5", "is no radius"),
        ("near=48.1,11.6,5ft", "is no radius"),
        ("near=48.1,east,5km", "is no radius"),
        ("near=", "is no radius"),
        ("near=98.1,11.6,5km", "names no place"),
        ("near=48.1,181,5km", "names no place"),
        ("near=48.1,11.6,0m", "above 0 and at most 10,000 km"),
        ("near=48.1,11.6,-5km", "above 0"),
        ("near=48.1,11.6,10001km", "at most 10,000 km"),
        ("near>5km", "cannot filter by 'near'"),
    ],
)
def test_says_what_is_wrong_with_a_radius(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_filter(text, INFO)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_without_places_there_is_no_radius() -> None:
    bare = IndexInfo(dimension=4, number_columns=("latitude",))
    for filters in ("near=1,2,3km", {"near": (1, 2, "3km")}, [NearFilter(1, 2, 3)]):
        with pytest.raises(UsageError, match="feed a manifest that has them, or pictures with"):
            parse_filters(filters, bare)  # type: ignore[arg-type]
    named = replace(bare, tag_columns=("near",))
    assert parse_filter("near=beach", named) == TagFilter("near", ("beach",))
