"""The embedded engine: searching, against a plain twin. Scores are in test_ranking_parity."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from unicodedata import normalize

import numpy as np
import pytest
from local_collection import (
    DIMENSION,
    in_segments,
    make_embedding,
    same,
    through_codes,
)

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery
from clipsearch.engines.local import search as searching
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.filtering import Filter, NumberFilter, TagFilter
from clipsearch.modes import MODES, Mode
from clipsearch.text import tokens
from finetune.errors import UsageError

# How many segments hold the documents, and whether all vectors are compared or those found by code.
LAYOUTS = {"one segment": 1, "twenty segments": 20, "codes": 1, "codes of five segments": 5}


@pytest.fixture(scope="module", params=LAYOUTS)
def filled(
    request: pytest.FixtureRequest,
    collection: list[Document],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("filled") / "photos.index"
    with pytest.MonkeyPatch.context() as patch:
        if request.param.startswith("codes"):
            through_codes(patch)
        made = in_segments(folder, collection, LAYOUTS[request.param])
        yield made
        made.close()


# A twin of the ranking in plain Python, over the documents themselves.


def passes(document: Document, condition: Filter) -> bool:
    if isinstance(condition, TagFilter):
        value = document.tags.get(condition.column)
        wanted = {normalize("NFC", one).lower() for one in condition.values}
        found = value is not None and normalize("NFC", value).lower() in wanted
        return found != condition.exclude
    number = document.numbers.get(condition.column)
    if number is None:
        return False
    low, high = condition.low, condition.high
    above = low is None or (number > low if condition.low_open else number >= low)
    below = high is None or (number < high if condition.high_open else number <= high)
    return above and below


@cache
def words_of(caption: str) -> tuple[str, ...]:
    return tuple(tokens(caption))


def twin(documents: list[Document], query: EngineQuery) -> tuple[list[tuple[str, float]], int]:
    """((id, score) of all hits, total)."""
    words = {
        document.id: [token for caption in document.captions for token in words_of(caption)]
        for document in documents
    }
    average = sum(map(len, words.values())) / len(documents)
    matching = {token: sum(token in own for own in words.values()) for token in query.tokens}

    def bm25(document: Document) -> float:
        own, score = words[document.id], 0.0
        for token in query.tokens:
            frequency = own.count(token)
            idf = np.log(1 + (len(documents) - matching[token] + 0.5) / (matching[token] + 0.5))
            norm = 1.2 * (0.25 + 0.75 * len(own) / average)
            score += idf * frequency * 2.2 / (frequency + norm)
        return score

    allowed = [
        document
        for document in documents
        if all(passes(document, condition) for condition in query.filters)
        and document.id not in query.exclude_ids
    ]
    lexical = {document.id: bm25(document) for document in allowed}
    cosine = {}
    for document in allowed:
        if query.vector is not None:
            assert document.embedding is not None
            cosine[document.id] = float(document.embedding @ query.vector)

    def ordered(scores: dict[str, float], digits: int = 5) -> list[tuple[str, float]]:
        return sorted(scores.items(), key=lambda pair: (-round(pair[1], digits), pair[0]))

    if query.mode == "bm25":
        hits = ordered({name: score for name, score in lexical.items() if score > 0})
        return hits, len(hits)
    closeness = {name: 1 / (2 - value) for name, value in cosine.items()}
    if query.mode == "vector":
        hits = ordered(closeness)[: max(query.candidates, query.offset + query.k)]
        return hits, len(allowed)
    near = {name for name, _ in ordered(cosine)[: query.candidates]}
    union = [name for name, score in lexical.items() if score > 0 or name in near]
    if query.mode == "hybrid-sum":
        return ordered({name: lexical[name] + closeness[name] for name in union}), len(union)
    first = ordered({name: 0.1 * lexical[name] + cosine[name] for name in union})[:1000]
    if query.mode == "hybrid":
        return first, len(union)
    names = [name for name, _ in first]
    if query.mode == "hybrid-rrf":
        fused = dict.fromkeys(names, 0.0)
        for part in (lexical, cosine):
            by_part = sorted(names, key=lambda name: -round(part[name], 6))
            for rank, name in enumerate(by_part, start=1):
                fused[name] += 1 / (60 + rank)
        return ordered(fused, digits=9), len(union)

    def normalized(part: dict[str, float]) -> dict[str, float]:
        values = [part[name] for name in names] or [0.0]
        low, high = min(values), max(values)
        return {name: 0.5 if high == low else (part[name] - low) / (high - low) for name in names}

    assert query.mode == "hybrid-normalized", f"{query.mode}: say here what it means"
    left, right = normalized(lexical), normalized(cosine)
    return ordered({name: 0.1 * left[name] + right[name] for name in names}), len(union)


FILTERS: tuple[tuple[Filter, ...], ...] = (
    (),
    (TagFilter("class", ("AIRPORT",)),),
    (TagFilter("class", ("it's", "böğ")), NumberFilter("year", low=2003)),
    (TagFilter("class", ("BO\u0308G\u0306",)),),
    (TagFilter("class", ("airport", "", "%"), exclude=True),),
    (NumberFilter("year", 2002, 2006, low_open=True, high_open=True),),
    (NumberFilter("Größe"),),
    (TagFilter("absent", ("x",)),),
    (TagFilter("absent", ("x",), exclude=True), NumberFilter("year", high=2004)),
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filters", FILTERS)
def test_search_equals_a_plain_twin(
    mode: Mode, filters: tuple[Filter, ...], filled: LocalEngine, collection: list[Document]
) -> None:
    source = np.random.default_rng(len(filters) + MODES.index(mode))
    for text in ("the red dog", "running café running", "日本語", "nothingofthekind"):
        query = EngineQuery(
            mode,
            tuple(tokens(text)),
            make_embedding(source),
            k=7,
            offset=int(source.integers(0, 12)),
            filters=filters,
            candidates=int(source.integers(5, 40)),
            exclude_ids=("photos/0003.jpg", "photos/0010.jpg", "not there"),
        )
        hits, total = twin(collection, query)
        page = filled.search(query)
        expected = hits[query.offset : query.offset + query.k]
        assert page.total == total
        assert [hit.score for hit in page.hits] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )
        assert [hit.document.id for hit in page.hits] == [name for name, _ in expected]


def test_hits_carry_document_and_parts(filled: LocalEngine, collection: list[Document]) -> None:
    by_id = {document.id: document for document in collection}
    vector = make_embedding(np.random.default_rng(3))
    page = filled.search(EngineQuery("hybrid", ("dog",), vector, k=20))
    for hit in page.hits:
        document = by_id[hit.document.id]
        assert same(hit.document, replace(document, embedding=None))
        assert document.embedding is not None
        assert hit.bm25 is not None and hit.cosine is not None
        assert hit.cosine == pytest.approx(float(document.embedding @ vector), abs=1e-6)
        assert (hit.bm25 > 0) == any("dog" in caption.split() for caption in document.captions)
        assert hit.score == pytest.approx(0.1 * hit.bm25 + hit.cosine, abs=1e-6)
    assert filled.search(EngineQuery("bm25", ("dog",))).hits[0].cosine is None
    assert filled.search(EngineQuery("vector", (), vector)).hits[0].bm25 is None


def test_facets_count_all_matches(filled: LocalEngine, collection: list[Document]) -> None:
    query = EngineQuery(
        "bm25", ("dog",), k=1, facets=("class", "absent"), filters=(NumberFilter("year", 2003),)
    )
    page = filled.search(query)
    counts: dict[str, int] = {}
    for document in collection:
        words = " ".join(document.captions).split()
        if "dog" in words and document.numbers.get("year", 0) >= 2003 and "class" in document.tags:
            # Of the two spellings, this one is the more frequent.
            value = document.tags["class"].replace("Airport", "airport")
            counts[value] = counts.get(value, 0) + 1
    expected = tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    assert page.facets == {"class": expected, "absent": ()}
    vector = make_embedding(np.random.default_rng(3))
    page = filled.search(EngineQuery("vector", (), vector, k=3, candidates=50, facets=("split",)))
    tagged = sum("split" in document.tags for document in collection)
    assert page.facets == {"split": (("train", tagged),)}


@pytest.mark.parametrize("k", [1, 10, 150])
@pytest.mark.parametrize("offset", [0, 20, 390])
def test_vector_counts_what_passes_whatever_the_page(
    k: int, offset: int, filled: LocalEngine, collection: list[Document]
) -> None:
    airport = TagFilter("class", ("airport",))
    for filters in ((), (airport,), (NumberFilter("year", low=2003), airport)):
        query = EngineQuery(
            "vector",
            (),
            make_embedding(np.random.default_rng(3)),
            k=k,
            offset=offset,
            filters=filters,
            facets=("class",),
            candidates=30,
            exclude_ids=("photos/0003.jpg",),
        )
        page = filled.search(query)
        passing = [
            document
            for document in collection
            if document.id != "photos/0003.jpg" and all(passes(document, one) for one in filters)
        ]
        assert page.total == len(passing)
        assert page.candidates == min(max(30, offset + k), len(passing))
        assert len(page.hits) == max(0, min(k, len(passing) - offset))
        assert sum(count for _, count in page.facets["class"]) == sum(
            "class" in document.tags for document in passing
        )
    assert filled.search(EngineQuery("bm25", ("dog",))).candidates is None


def test_pages_hold_every_hit_once(filled: LocalEngine) -> None:
    vector = make_embedding(np.random.default_rng(4))
    for mode in MODES:
        query = EngineQuery(mode, ("the", "dog"), vector, k=9, candidates=30)
        total = filled.search(query).total
        seen = [
            hit.document.id
            for offset in range(0, total, 9)
            for hit in filled.search(replace(query, offset=offset)).hits
        ]
        assert len(set(seen)) == len(seen) >= total
        assert filled.search(replace(query, offset=5000)).hits == ()


def test_deep_vector_page_raises_the_candidates(filled: LocalEngine) -> None:
    vector = make_embedding(np.random.default_rng(5))
    page = filled.search(EngineQuery("vector", (), vector, k=10, offset=250, candidates=100))
    assert (len(page.hits), page.total, page.candidates) == (10, 400, 260)
    page = filled.search(EngineQuery("vector", (), vector, k=10, offset=395))
    assert (len(page.hits), page.total) == (5, 400)


def test_exact_never_asks_the_codes(
    filled: LocalEngine, collection: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the codes")

    monkeypatch.setattr(searching, "Comparison", refuse)
    query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(6)), exact=True)
    assert [hit.document.id for hit in filled.search(query).hits] == [
        name for name, _ in twin(collection, query)[0][:10]
    ]


def test_query_without_a_word_says_so(filled: LocalEngine) -> None:
    page = filled.search(EngineQuery("bm25"))
    assert page.hits == () and page.total == 0 and "no word" in page.notes[0]
    page = filled.search(EngineQuery("hybrid", (), make_embedding(np.random.default_rng(7))))
    assert page.total == 100 and "no word" in page.notes[0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (EngineQuery("bm26", ("a",)), "unknown mode 'bm26'"),  # type: ignore[arg-type]
        (EngineQuery("vector", ("a",)), "has none; try bm25"),
        (EngineQuery("hybrid", ("a",), np.ones(3, np.float32)), r"shape \(3,\)"),
        (EngineQuery("hybrid", ("a",), np.ones(DIMENSION, np.float32)), "length 4.0000"),
        (EngineQuery("vector", (), np.full(DIMENSION, np.nan, np.float32)), "not finite"),
        (EngineQuery("bm25", ("a",), k=0), "at least 1"),
        (EngineQuery("bm25", ("a",), offset=-1), "not below 0"),
        (EngineQuery("bm25", ("a",), bm25_weight=float("inf")), "finite"),
    ],
)
def test_queries_that_cannot_work(query: EngineQuery, message: str, filled: LocalEngine) -> None:
    with pytest.raises(UsageError, match=message):
        filled.search(query)


def test_threads_search_alike(filled: LocalEngine) -> None:
    query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(8)))
    expected = [hit.document.id for hit in filled.search(query).hits]
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(filled.search, [query] * 64))
    assert all([hit.document.id for hit in page.hits] == expected for page in pages)
