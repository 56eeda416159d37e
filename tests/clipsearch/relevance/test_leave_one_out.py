"""Captions left out: against an index that was really built without them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_collection import DIMENSION, feed, make_document, make_embedding

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo, fused_weights
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.modes import MODES, Weights
from clipsearch.operations import Upsert
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.mode_order import order_in
from clipsearch.text import tokens

INFO = IndexInfo(DIMENSION)
COUNT = 60
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Some without captions, some captions in several images, one twice in an image, one alone."""
    made = [make_document(number) for number in range(COUNT)]
    made[3] = replace(made[3], captions=("a heron", "A heron!", "grey bird in the river"))
    made[4] = replace(made[4], captions=("the only zebra",))
    made[5] = replace(made[5], captions=("grey bird in the river", "old snow"))
    made[6] = replace(made[6], captions=("...", "red dog"))
    return made


@pytest.fixture(scope="module")
def queries(documents: list[Document]) -> list[JudgedQuery]:
    collection = Collection.of(documents, DIMENSION, "en")
    captions = [
        (row, caption)
        for row, document in enumerate(collection.documents)
        for caption in document.captions
    ]
    return caption_queries(collection, captions, "en")


def index_of(documents: list[Document], folder: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine.create(folder, INFO)
    feed(engine, [Upsert(document) for document in documents])
    yield engine
    engine.close()


def without(document: Document, caption: str) -> Document:
    """The document with every caption taken out that says the same."""
    left = tuple(one for one in document.captions if tokens(one) != tokens(caption))
    return replace(document, captions=left)


def check_all_modes(
    engine: LocalEngine, collection: Collection, query: JudgedQuery, vector: np.ndarray
) -> None:
    words = tuple(tokens(query.text))
    bm25 = collection.bm25(words, query.removed or {})
    cosine = collection.cosines(vector[np.newaxis])[0]
    for mode in MODES:
        asked = EngineQuery(mode, tokens=words, vector=vector, k=COUNT, candidates=7)
        hits = engine.search(asked).hits
        order = order_in(mode, bm25, cosine, fused_weights(asked, INFO), COUNT, candidates=7)
        scores = order.scores[: len(hits)]
        assert scores == pytest.approx([hit.score for hit in hits], abs=1e-5), (mode, query.text)
        expected = {hit.document.id: hit.score for hit in hits}
        for row, score in zip(order.rows[: len(hits)], order.scores, strict=False):
            # Scores that differ in the last bit may change places.
            assert expected[collection.documents[row].id] == pytest.approx(score, abs=1e-5)
        if mode != "vector":
            assert len(order.rows) == len(hits)


@pytest.mark.parametrize(
    "caption",
    ["a heron", "grey bird in the river", "the only zebra", "...", "red dog", None],
    ids=["twice-in-an-image", "shared", "alone", "no-token", "common", "made-up"],
)
def test_it_ranks_like_an_index_built_without_the_caption(
    caption: str | None, documents: list[Document], queries: list[JudgedQuery], tmp_path: Path
) -> None:
    collection = Collection.of(documents, DIMENSION, "en")
    query = next(
        each
        for each in queries
        if each.text == caption or (caption is None and len(each.removed or {}) > 2)
    )
    left = [without(document, query.text) for document in documents]
    for engine in index_of(left, tmp_path / "without.index"):
        check_all_modes(engine, collection, query, make_embedding(RANDOM))


def test_with_nothing_left_out_it_ranks_like_the_index(
    documents: list[Document], tmp_path: Path
) -> None:
    collection = Collection.of(reversed(documents), DIMENSION, "en")
    for engine in index_of(documents, tmp_path / "whole.index"):
        for text in ("red dog", "the old bridge", "the the the", "nothing known", "!"):
            query = JudgedQuery(text, text, {}, cluster=0)
            check_all_modes(engine, collection, query, make_embedding(RANDOM))


def test_every_image_with_the_caption_is_right(queries: list[JudgedQuery]) -> None:
    by_text = {query.text: query for query in queries}
    assert by_text["grey bird in the river"].right == ("photos/0003.jpg", "photos/0005.jpg")
    assert by_text["grey bird in the river"].other_captions is True
    assert "A heron!" not in by_text  # the same words as "a heron"
    assert by_text["a heron"].removed == {3: ("a", "heron", "a", "heron")}
    assert by_text["the only zebra"].other_captions is False
    assert len({query.text for query in queries}) == len(queries)


def test_a_caption_in_other_words_leaves_nothing_out(documents: list[Document]) -> None:
    collection = Collection.of(documents, DIMENSION, "en")
    (query,) = caption_queries(collection, [(4, "a striped horse")], "en")
    assert query.removed == {}
    assert query.right == ("photos/0004.jpg",)
    assert query.other_captions is True


def test_a_document_without_an_embedding_is_found_by_words_alone() -> None:
    bare = Document("a", ("red dog",))
    collection = Collection.of([bare, make_document(1)], DIMENSION, "en")
    vector = make_embedding(RANDOM)
    cosine = collection.cosines(vector[np.newaxis])[0]
    bm25 = collection.bm25(("dog",))
    assert order_in("vector", bm25, cosine, Weights(1, 1), 5).rows.tolist() == [1]
    order = order_in("hybrid", bm25, cosine, Weights(1, 1), 5)
    assert order.scores[order.rows == 0] == pytest.approx(bm25[0])
