"""Codes of vectors against plain twins, and what is found through them against what is there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from earlier_codes import in_columns
from local_collection import feed, make_document

from clipsearch.documents import Embedding
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local import search as searching
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.store import Store
from clipsearch.engines.local.vectors import blocks
from clipsearch.engines.local.vectors.blocks import VectorStore
from clipsearch.engines.local.vectors.codes import PAGE, Codes, Question, encode, rotation
from clipsearch.engines.local.vectors.depth import COUNTS, Depths, measure
from clipsearch.engines.local.vectors.nearest import FARTHEST, Comparison
from clipsearch.engines.local.writing import upkeep
from clipsearch.filtering import TagFilter
from clipsearch.modes import Mode
from clipsearch.operations import Delete, Upsert


def unit(vectors: np.ndarray) -> Embedding:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def signs_of(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float64) @ rotation(vectors.shape[-1]).astype(np.float64) > 0


@pytest.mark.parametrize("dimension", [1, 3, 16, 64, 65, 200, 512, 700])
@pytest.mark.parametrize("count", [1, PAGE - 1, PAGE + 3])
def test_distances_count_signs_that_differ(dimension: int, count: int) -> None:
    chance = np.random.default_rng(dimension)
    vectors, query = chance.standard_normal((count, dimension)), chance.standard_normal(dimension)
    codes = Codes.empty(count, dimension)
    codes.put(np.arange(count), encode(vectors.astype(np.float32), np.zeros(dimension, np.float32)))
    assert codes.are_whole()
    found = np.empty(count, np.uint16)
    codes.distances(Question.of(query.astype(np.float32)), found)
    expected = (signs_of(vectors) != signs_of(query)).sum(axis=1)
    # A value that is nearly 0 may be rounded to either side.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found == expected).mean() > 0.9


def test_estimates_weigh_the_signs_by_the_query() -> None:
    chance = np.random.default_rng(1)
    vectors, query = chance.standard_normal((700, 96)), chance.standard_normal(96)
    codes = Codes.empty(700, 96)
    codes.put(np.arange(700), encode(vectors.astype(np.float32), np.zeros(96, np.float32)))
    places = np.sort(chance.choice(700, 300, replace=False))
    found = codes.estimates(Question.of(query.astype(np.float32)), places)
    turned = query @ rotation(96).astype(np.float64)
    step = 2 * np.abs(turned).max() / 15
    steps = np.rint((turned + np.abs(turned).max()) / step)
    expected = signs_of(vectors)[places] @ (steps * step - np.abs(turned).max())
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert np.corrcoef(found, vectors[places] @ query)[0, 1] > 0.7


@pytest.mark.parametrize("dimension", [65, 512, 700])
def test_codes_of_earlier_versions_are_read(dimension: int) -> None:
    """In pages of the first word of all codes, the next of all, and so on, then the checksums."""
    chance = np.random.default_rng(dimension)
    count, centre = PAGE + 300, np.zeros(dimension, np.float32)
    vectors = chance.standard_normal((count, dimension)).astype(np.float32)
    written = encode(vectors, centre)
    pages = in_columns(written)
    read = Codes.from_columns(np.frombuffer(pages, np.uint8), dimension)
    assert read.are_whole()
    new = Codes.empty(count, dimension)
    new.put(np.arange(count), written)
    question = Question.of(vectors[3])
    found, expected = np.empty(count, np.uint16), np.empty(count, np.uint16)
    read.distances(question, found)
    new.distances(question, expected)
    assert np.array_equal(found, expected) and found[3] == found.min()
    places = np.array([0, PAGE - 1, PAGE, count - 1])
    assert np.array_equal(read.estimates(question, places), new.estimates(question, places))
    flipped = bytearray(pages)
    flipped[8 * PAGE - 1] ^= 1
    assert not Codes.from_columns(np.frombuffer(flipped, np.uint8), dimension).are_whole()


def test_the_rotation_is_the_same_everywhere() -> None:
    turned = rotation(8)
    np.testing.assert_allclose(turned @ turned.T, np.eye(8), atol=1e-6)
    np.testing.assert_allclose(
        turned[0, :4], [0.740723, -0.301875, -0.240053, -0.220829], atol=1e-5
    )  # of codes that are written: never another


def test_nothing_that_is_not_allowed_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 256)
    chance = np.random.default_rng(2)
    vectors = unit(chance.standard_normal((1000, 32)))
    store = VectorStore.of(vectors)
    assert len(store.blocks) == 4
    allowed = np.zeros(1000, bool)
    allowed[::50] = True
    compared = Comparison(store, vectors[0], allowed)
    assert set(np.flatnonzero(compared.distances < FARTHEST)) == set(range(0, 1000, 50))
    for wanted in (1, 7, 20, 500):
        found = compared.nearest(wanted, wanted)
        assert set(found) <= set(range(0, 1000, 50)) and len(found) >= min(wanted, 20)
    compared = Comparison(store, vectors[0])
    assert 0 in compared.nearest(10, 3)
    slots = np.array([999, 3, 400, 0])
    np.testing.assert_allclose(store.cosines(vectors[0], slots), vectors[slots] @ vectors[0], 1e-5)
    assert np.array_equal(store.gathered(slots), vectors[slots])


def test_depths_grow_with_what_is_asked_for() -> None:
    chance = np.random.default_rng(3)
    spectrum = np.arange(1, 65) ** -0.5
    vectors = unit(chance.standard_normal((3000, 64)) * spectrum)
    live = np.ones(3000, bool)
    live[::7] = False
    depths = measure(VectorStore.of(vectors), live, 3000)
    assert depths.vectors == live.sum() and len(depths.by_steps) == len(COUNTS)
    asked = [depths.of(count, 3000) for count in (1, 10, 50, 100, 1000, 2500)]
    assert asked == sorted(asked)
    assert all(
        count <= steps <= signs for count, (signs, steps) in zip((1, 10), asked, strict=False)
    )
    assert depths.of(10, 30_000)[1] > 5 * depths.of(10, 3000)[1]
    assert depths.still_hold(3000, 3000) and not depths.still_hold(6000, 6000)
    assert not depths.still_hold(3000, 9000)


def test_codes_find_nearly_all_that_exact_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LEAST_FOR_CODES", 500)
    chance = np.random.default_rng(0)
    # Unclustered, with a falling spectrum, in a narrow cone as those of an encoder are.
    spectrum = np.arange(1, 97) ** -0.5
    vectors = chance.standard_normal((4000, 96)) * spectrum + 3 * chance.standard_normal(96) / 10
    documents = [
        replace(make_document(number), embedding=unit(vector))
        for number, vector in enumerate(vectors)
    ]
    engine = LocalEngine.create(tmp_path / "photos.index", IndexInfo(96))
    feed(engine, [Upsert(document) for document in documents[:3600]])
    # Documents that came after it was measured, and others that went.
    feed(engine, [Upsert(document) for document in documents[3600:]])
    feed(engine, [Delete(document.id) for document in documents[::10]])
    assert engine.count() == 3600
    asked = 0
    plain = searching.Comparison

    def counted(*arguments: object) -> object:
        nonlocal asked
        asked += 1
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(searching, "Comparison", counted)
    monkeypatch.setattr(searching, "VECTORS_PER_GATHERED_VECTOR", 0)
    queries = [
        unit(vectors[n] + 0.5 * chance.standard_normal(96) * spectrum) for n in range(1, 4000, 200)
    ]
    modes: tuple[Mode, ...] = ("vector", "hybrid", "hybrid-rrf")
    for mode in modes:
        for filters in ((), (TagFilter("split", ("train",)),)):
            found = []
            for vector in queries:
                query = EngineQuery(mode, ("dog",), vector, k=10, offset=5, filters=filters)
                exact = {hit.document.id for hit in engine.search(replace(query, exact=True)).hits}
                hits = {hit.document.id for hit in engine.search(query).hits}
                assert len(hits) == 10
                found.append(len(hits & exact) / 10)
            assert np.mean(found) >= 0.97, (mode, filters)
    assert asked == 6 * len(queries)
    depth = open_depths(engine).of(10, 3600)
    assert depth[1] < 1800  # far from all


def open_depths(engine: LocalEngine) -> Depths:
    store = Store(Path(engine.target))
    depths = store.state().depths
    store.close()
    assert depths is not None
    return depths
