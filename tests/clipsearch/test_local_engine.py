"""The embedded engine: writing, reading, filters, faults. Scores are in test_ranking_parity."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipsearch.documents import Document, Embedding
from clipsearch.engine import (
    MODES,
    Delete,
    EngineQuery,
    Filter,
    IndexInfo,
    Mode,
    NumberFilter,
    Operation,
    TagFilter,
    Update,
    Upsert,
)
from clipsearch.engines import batches, create_engine, open_engine
from clipsearch.engines.local import LocalEngine
from clipsearch.engines.snapshot import Snapshot
from clipsearch.ranking import Rows, best_rows
from clipsearch.text import tokens
from finetune.errors import EngineError, UsageError

DIMENSION = 16
WORDS = ("red", "dog", "river", "the", "of", "bridge", "snow", "old", "café", "日本語", "running")
CLASSES = ("Airport", "airport", "beach", "Böğ", "it's", 'a "b"', "x\\y", "%", "")


def make_embedding(random_source: np.random.Generator) -> Embedding:
    vector = random_source.standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_document(number: int, seed: int = 0) -> Document:
    """Made of its number alone; some without caption, tag or number, some twins of others."""
    source = np.random.default_rng((seed, number // 3 if number % 7 == 0 else number))
    captions = tuple(
        " ".join(source.choice(WORDS, int(source.integers(1, 6))))
        for _ in range(int(source.integers(0, 4)))
    )
    tags = {"class": str(source.choice(CLASSES)), "split": "train"} if number % 5 else {}
    numbers = {"year": float(source.integers(2000, 2010)), "Größe": 0.1} if number % 4 else {}
    name = f"photos/{number:04}.jpg"
    return Document(name, captions, f"/{name}", tags, numbers, make_embedding(source))


def feed(engine: LocalEngine, operations: Sequence[Operation]) -> None:
    outcomes = list(engine.feed(operations))
    assert [outcome.error for outcome in outcomes] == [None] * len(operations)
    engine.finish_feed()


def same(left: Document | None, right: Document | None) -> bool:
    if left is None or right is None:
        return left is right
    if (left.embedding is None) != (right.embedding is None):
        return False
    if left.embedding is not None and not np.array_equal(left.embedding, right.embedding):  # type: ignore[arg-type]
        return False
    return replace(left, embedding=None) == replace(right, embedding=None)


class PerfectIndexEngine(LocalEngine):
    """Takes the road through the vector index, with an index that misses nothing."""

    def _nearest_in(self, snapshot: Snapshot) -> Callable[[Embedding, int], Rows]:
        return lambda vector, count: best_rows(snapshot.cosines(vector), count)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    made = LocalEngine.create(tmp_path / "photos.index", IndexInfo(DIMENSION))
    yield made
    made.close()


@pytest.fixture(scope="module")
def collection() -> list[Document]:
    return [make_document(number) for number in range(400)]


@pytest.fixture(scope="module", params=["exact", "index"])
def filled(
    request: pytest.FixtureRequest,
    collection: list[Document],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("filled") / "photos.index"
    made = LocalEngine.create(folder, IndexInfo(DIMENSION))
    if request.param == "index":
        made = PerfectIndexEngine(folder, made.info, exact_limit=200)
    feed(made, [Upsert(document) for document in collection])
    yield made
    made.close()


# A twin of the ranking in plain Python, over the documents themselves.


def passes(document: Document, condition: Filter) -> bool:
    if isinstance(condition, TagFilter):
        value = document.tags.get(condition.column)
        wanted = {one.lower() for one in condition.values}
        return (value is not None and value.lower() in wanted) != condition.exclude
    number = document.numbers.get(condition.column)
    if number is None:
        return False
    low, high = condition.low, condition.high
    above = low is None or (number > low if condition.low_open else number >= low)
    below = high is None or (number < high if condition.high_open else number <= high)
    return above and below


def twin(documents: list[Document], query: EngineQuery) -> tuple[list[tuple[str, float]], int]:
    """((id, score) of all hits, total)."""
    words = {
        document.id: [token for caption in document.captions for token in tokens(caption)]
        for document in documents
    }
    average = sum(map(len, words.values())) / len(documents)

    def bm25(document: Document) -> float:
        own, score = words[document.id], 0.0
        for token in query.tokens:
            matching = sum(token in other for other in words.values())
            frequency = own.count(token)
            idf = np.log(1 + (len(documents) - matching + 0.5) / (matching + 0.5))
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
        return hits, len(hits)
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

    left, right = normalized(lexical), normalized(cosine)
    return ordered({name: 0.1 * left[name] + right[name] for name in names}), len(union)


FILTERS: tuple[tuple[Filter, ...], ...] = (
    (),
    (TagFilter("class", ("AIRPORT",)),),
    (TagFilter("class", ("it's", "böğ")), NumberFilter("year", low=2003)),
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
            counts[document.tags["class"]] = counts.get(document.tags["class"], 0) + 1
    expected = tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    assert page.facets == {"class": expected, "absent": ()}
    vector = make_embedding(np.random.default_rng(3))
    page = filled.search(EngineQuery("vector", (), vector, k=3, candidates=50, facets=("split",)))
    nearest = filled.search(EngineQuery("vector", (), vector, k=50)).hits
    tagged = sum("split" in hit.document.tags for hit in nearest)
    assert page.facets == {"split": (("train", tagged),)}


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
    assert (len(page.hits), page.total) == (10, 260)
    page = filled.search(EngineQuery("vector", (), vector, k=10, offset=395))
    assert (len(page.hits), page.total) == (5, 400)


def test_exact_never_asks_the_index(
    filled: LocalEngine, collection: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked the approximate index")

    monkeypatch.setattr(type(filled), "_nearest_in", refuse)
    query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(6)), exact=True)
    assert [hit.document.id for hit in filled.search(query).hits] == [
        name for name, _ in twin(collection, query)[0][:10]
    ]


def test_vector_index_finds_nearly_all_that_exact_finds(tmp_path: Path) -> None:
    folder = tmp_path / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION), exact_limit=1000)
    feed(engine, [Upsert(make_document(number)) for number in range(1500)])
    # Documents that came after the index was built, and others that went.
    feed(engine, [Upsert(make_document(number)) for number in range(1500, 1600)])
    feed(engine, [Delete(make_document(number).id) for number in range(0, 1500, 10)])
    assert engine.count() == 1450
    for mode in ("vector", "hybrid"):
        for filters in ((), (TagFilter("split", ("train",)),), (NumberFilter("year", 2009),)):
            found = []
            for seed in range(20):
                vector = make_embedding(np.random.default_rng(seed))
                query = EngineQuery(mode, ("dog",), vector, k=10, offset=5, filters=filters)
                exact = {hit.document.id for hit in engine.search(replace(query, exact=True)).hits}
                hits = {hit.document.id for hit in engine.search(query).hits}
                assert len(hits) == 10
                found.append(len(hits & exact) / 10)
            assert np.mean(found) >= 0.95, (mode, filters)


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


# Writing.


def test_documents_come_back_exactly(engine: LocalEngine, collection: list[Document]) -> None:
    strange = replace(
        make_document(1),
        id="a'b\"c\\d%e_f\nzürich/日本 😀; DROP TABLE documents --",
        captions=("", "  two  spaces\t\n", "e\u0301 é"),
        tags={"Clé d'or": "O'Neil\\\"", "": "empty column", "İ": "ß"},
        numbers={"negative zero": -0.0, "tiny": 5e-324, "third": 1 / 3, "large": 1e308},
    )
    documents = [*collection[:50], strange]
    assert [o.error for o in engine.feed(map(Upsert, documents))] == [None] * 51
    ids = [document.id for document in documents]
    for finish in (False, True):
        if finish:
            engine.finish_feed()
        reopened = LocalEngine.open(Path(engine.target))
        assert reopened.count() == 51
        found = reopened.get([*ids, "nobody", ""], embeddings=True)
        assert all(map(same, found, [*documents, None, None]))
        without = reopened.get(ids[:2])
        assert all(document is not None and document.embedding is None for document in without)
        visited = {document.id: document for document in reopened.visit(embeddings=True)}
        assert all(same(visited[document.id], document) for document in documents)
        assert len(list(reopened.visit())) == 51


def test_hostile_ids_are_only_ids(engine: LocalEngine) -> None:
    hostile = ["') OR 1=1 --", "x' OR 'a'='a", "\\", "\\'", "''", "*", "%", "a\nb", "'; --", "🦜"]
    feed(engine, [Upsert(replace(make_document(n), id=name)) for n, name in enumerate(hostile)])
    forget = [Delete(name) for name in hostile[::2]]
    feed(engine, [*forget, Delete("' OR ''='"), Delete("a\0b"), Delete("\ud800"), Delete("")])
    assert sorted(document.id for document in engine.visit()) == sorted(hostile[1::2])
    updates = [Update(name, captions=("changed",)) for name in hostile[1::2]]
    feed(engine, updates)
    assert engine.search(EngineQuery("bm25", ("chang",))).total == 5


def test_operations_of_one_id_are_applied_in_order(engine: LocalEngine) -> None:
    one, two = make_document(1), replace(make_document(2), id=make_document(1).id)
    operations: list[Operation] = [
        Upsert(one),
        Delete(one.id),
        Upsert(two),
        Update(one.id, captions=("first",)),
        Update(one.id, captions=("last", "words"), tags={"class": "new"}),
        Update(one.id, numbers={"year": 7.0}, path="moved.jpg"),
    ]
    feed(engine, operations)
    (document,) = engine.visit(embeddings=True)
    assert document.captions == ("last", "words") and document.tags == {"class": "new"}
    assert document.numbers == {"year": 7.0} and document.path == "moved.jpg"
    assert np.array_equal(document.embedding, two.embedding)  # type: ignore[arg-type]
    feed(engine, [Delete(one.id), Delete(one.id)])
    assert engine.count() == 0 and engine.search(EngineQuery("bm25", ("last",))).total == 0


def test_bad_documents_are_refused_one_by_one(engine: LocalEngine) -> None:
    good = make_document(1)
    assert good.embedding is not None
    broken = {
        "nan": replace(good, embedding=np.full(DIMENSION, np.nan, np.float32)),
        "long": replace(good, embedding=good.embedding * 2),
        "short": replace(good, embedding=good.embedding[:3]),
        "none": replace(good, embedding=None),
        "nul": replace(good, captions=("a\0b",)),
        "surrogate": replace(good, captions=("half \ud83d",)),
        "infinite": replace(good, numbers={"year": float("inf")}),
    }
    operations: list[Operation] = [Upsert(replace(d, id=name)) for name, d in broken.items()]
    operations += [Upsert(good), Update("missing", captions=("x",)), Update(good.id, path="p\0")]
    outcomes = {outcome.operation.id: outcome.error for outcome in engine.feed(operations[:-1])}
    assert outcomes.pop(good.id) is None
    assert set(outcomes) == {*broken, "missing"}
    assert all(error and name in error for name, error in outcomes.items())
    (refused,) = engine.feed(operations[-1:])
    assert refused.error and "U+0000" in refused.error
    engine.finish_feed()
    assert [document.id for document in engine.visit()] == [good.id]


@pytest.mark.parametrize("error", [ValueError("broken manifest"), KeyboardInterrupt()])
def test_error_of_the_stream_comes_after_what_was_pulled(
    error: BaseException, engine: LocalEngine
) -> None:
    def stream() -> Iterator[Operation]:
        for number in range(5):
            yield Upsert(make_document(number))
        raise error

    acknowledged = []
    with pytest.raises(type(error)):
        for outcome in engine.feed(stream()):
            acknowledged.append(outcome.operation.id)  # noqa: PERF401
    assert len(acknowledged) == 5 == engine.count()
    feed(engine, [Upsert(make_document(9))])
    assert engine.count() == 6


def test_acknowledged_is_visible_to_the_next_search(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_OPERATIONS", 10)
    feed(engine, [Upsert(replace(make_document(999), captions=("needle",)))])
    reader = LocalEngine.open(Path(engine.target))
    operations = [
        Upsert(replace(make_document(number), captions=("needle",))) for number in range(35)
    ]
    for place, _ in enumerate(engine.feed(operations), start=1):
        if place % 10 == 1:
            assert reader.search(EngineQuery("bm25", ("needl",))).total >= place + 1
            assert reader.count() >= place + 1
    assert reader.search(EngineQuery("bm25", ("needl",))).total == 36
    engine.finish_feed()
    assert reader.search(EngineQuery("bm25", ("needl",))).total == 36
    assert reader.get(["photos/0034.jpg"])[0] is not None


def test_slow_streams_are_acknowledged_as_they_go(engine: LocalEngine) -> None:
    ticks = iter(range(0, 1000, 1))
    table = engine._table()
    written = batches.write_in_batches(
        (Upsert(make_document(number)) for number in range(10)),
        table,
        engine.info,
        lambda: None,
        clock=lambda: float(next(ticks)),
    )
    next(written)
    assert 0 < engine.count() < 10
    assert len(list(written)) == 9


def test_no_finish_without_a_change(engine: LocalEngine) -> None:
    feed(engine, [Upsert(make_document(1))])
    before = sorted(path.name for path in Path(engine.target).iterdir())
    feed(engine, [])
    assert sorted(path.name for path in Path(engine.target).iterdir()) == before


def test_disk_does_not_grow_with_every_feed(
    engine: LocalEngine, collection: list[Document]
) -> None:
    def size() -> int:
        files = Path(engine.target).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    feed(engine, [Upsert(document) for document in collection])
    first = size()
    for seed in range(8):
        changed = [replace(make_document(n, seed), captions=("new",)) for n in range(400)]
        feed(engine, [Upsert(document) for document in changed])
    assert size() < 1.2 * first
    folders = [path.name for path in Path(engine.target).iterdir() if path.is_dir()]
    assert len(folders) == 2


# Faults.


def test_opening_what_is_no_index(tmp_path: Path, engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="no index there"):
        open_engine(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(EngineError, match="holds something already"):
        create_engine(str(tmp_path / "file"), IndexInfo(4))
    with pytest.raises(EngineError, match="holds something already"):
        create_engine(engine.target, IndexInfo(4))
    with pytest.raises(UsageError, match="unknown language"):
        create_engine(str(tmp_path / "new"), IndexInfo(4, language="xx"))
    with pytest.raises(UsageError, match="0 dimensions"):
        create_engine(str(tmp_path / "new"), IndexInfo(0))
    assert not (tmp_path / "new").exists()
    info = Path(engine.target) / "index.json"
    stored = json.loads(info.read_text())
    info.write_text(json.dumps(stored | {"format": 99}))
    with pytest.raises(EngineError, match="format 99"):
        open_engine(engine.target)
    info.write_text("{")
    with pytest.raises(EngineError, match=r"index\.json: cannot be read"):
        open_engine(engine.target)


def test_info_travels_and_the_dimension_stays(engine: LocalEngine) -> None:
    info = replace(
        engine.info, encoder_name="é", tag_columns=("a", "b"), bm25_weight=0.3, images_root="/x"
    )
    engine.save_info(info)
    assert LocalEngine.open(Path(engine.target)).info == engine.info == info
    with pytest.raises(EngineError, match="dimension"):
        engine.save_info(replace(info, dimension=5))


def test_missing_table_is_one_sentence(engine: LocalEngine) -> None:
    table = Path(engine.target) / "documents.lance"
    table.rename(table.with_name("gone"))
    with pytest.raises(EngineError, match=r"photos\.index"):
        engine.search(EngineQuery("bm25", ("dog",)))


@pytest.mark.parametrize("name", ["snapshot.json", "rows.npy", "documents.json", "embeddings.npy"])
@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_broken_snapshot_is_built_again(
    name: str, harm: str, engine: LocalEngine, collection: list[Document]
) -> None:
    feed(engine, [Upsert(document) for document in collection[:100]])
    query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(2)))
    expected = [(hit.document.id, hit.score) for hit in engine.search(query).hits]
    (path,) = Path(engine.target).glob(f"snapshot-*/{name}")
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reopened = LocalEngine.open(Path(engine.target))
    assert [(hit.document.id, hit.score) for hit in reopened.search(query).hits] == expected
    assert all(
        map(same, reopened.get([d.id for d in collection[:100]], embeddings=True), collection)
    )


CHILD = """
import sys
sys.path[:0] = {path!r}
import test_local_engine as t
from pathlib import Path
from clipsearch.engine import Upsert
from clipsearch.engines import batches
from clipsearch.engines.local import LocalEngine
"""


def run_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python code that has this module as `t` and the engine's names."""
    program = CHILD.format(path=[str(Path(__file__).parent)]) + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FEED_FOREVER = """
batches.BATCH_OPERATIONS = 10
engine = LocalEngine.open(Path(sys.argv[1]))
def stream():
    number = int(sys.argv[2])
    while True:
        yield Upsert(t.make_document(number))
        number += 1
for outcome in engine.feed(stream()):
    print(outcome.operation.id, outcome.error, flush=True)
"""


def test_kill_9_leaves_whole_batches_and_all_that_was_acknowledged(engine: LocalEngine) -> None:
    folder = Path(engine.target)
    acknowledged: set[str] = set()
    source = random.Random(1)
    for start in (0, 1000, 2000):
        child = run_child(FEED_FOREVER, engine.target, str(start))
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(source.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
        child.wait()
        acknowledged |= {line.split()[0] for line in lines if line.strip().endswith(" None")}
        reader = LocalEngine.open(folder)
        present = {document.id for document in reader.visit()}
        assert acknowledged <= present
        assert len(present) % 10 == 0
        assert reader.search(EngineQuery("bm25", ("dog",))).total > 0
    engine.finish_feed()
    assert engine.count() == len(present)
    assert not list(folder.glob("*.tmp"))


def test_second_writer_is_refused_and_readers_go_on(engine: LocalEngine) -> None:
    child = run_child(FEED_FOREVER, engine.target, "0")
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(EngineError, match=rf"process {child.pid} is writing to it"):
            list(engine.feed([Upsert(make_document(5000))]))
        seen = [engine.count()]
        deadline = time.monotonic() + 20
        while seen[-1] < seen[0] + 30 and time.monotonic() < deadline:
            child.stdout.readline()
            total = engine.search(EngineQuery("vector", (), make_embedding(_generator()))).total
            assert total == min(100, max(total, 1))
            seen.append(engine.count())
        assert seen == sorted(seen) and seen[-1] > seen[0]
    finally:
        child.kill()
        child.communicate()
    feed(engine, [Upsert(make_document(5000))])


def _generator() -> np.random.Generator:
    return np.random.default_rng(1)


def test_two_engines_of_one_process_do_not_write_at_once(engine: LocalEngine) -> None:
    other = LocalEngine.open(Path(engine.target))
    running = engine.feed([Upsert(make_document(1)), Upsert(make_document(1))])
    next(running)
    with pytest.raises(EngineError, match="is writing to it"):
        list(other.feed([Upsert(make_document(2))]))
    list(running)
    feed(other, [Upsert(make_document(2))])
    assert engine.count() == 2


def test_readers_survive_a_writer_that_finishes_again_and_again(engine: LocalEngine) -> None:
    feed(engine, [Upsert(make_document(number)) for number in range(50)])
    stop = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        reader = LocalEngine.open(Path(engine.target))
        query = EngineQuery("hybrid", ("dog",), make_embedding(_generator()), facets=("class",))
        while not stop.is_set():
            try:
                assert reader.search(query).hits
                assert reader.get(["photos/0001.jpg"])[0] is not None
            except BaseException as error:
                problems.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(6):
        feed(engine, [Upsert(make_document(100 + step)), Update("photos/0001.jpg", path=str(step))])
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []


FEED_UNTIL_FULL = """
import itertools, resource
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
batches.BATCH_OPERATIONS = 200
engine = LocalEngine.open(Path(sys.argv[1]))
operations = (Upsert(t.make_document(number)) for number in itertools.count())
try:
    for outcome in engine.feed(operations):
        print(outcome.operation.id, outcome.error, flush=True)
    engine.finish_feed()
except t.EngineError as error:
    print("STOPPED", error, flush=True)
"""


def check_after_full_disk(folder: Path, child: subprocess.Popen[str], sentence: str) -> None:
    output, errors = child.communicate(timeout=120)
    lines = output.splitlines()
    assert lines and lines[-1].startswith("STOPPED"), errors
    assert sentence in lines[-1] and str(folder) in lines[-1]
    acknowledged = [line.split()[0] for line in lines[:-1] if line.endswith(" None")]
    reader = LocalEngine.open(folder)
    assert acknowledged and all(reader.get(acknowledged))


def test_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        folder = disk / "photos.index"
        LocalEngine.create(folder, IndexInfo(DIMENSION))
        check_after_full_disk(folder, run_child(FEED_UNTIL_FULL, str(folder)), "the disk is full")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_size_limit_loses_nothing_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION))
    code = FEED_UNTIL_FULL.replace("itertools.count()", "range(4000)")
    child = run_child(code, str(folder), str(200_000))
    check_after_full_disk(folder, child, str(folder))
    engine.finish_feed()
    assert engine.search(EngineQuery("bm25", ("dog",))).total > 0


def test_cold_search_imports_nothing_heavy(engine: LocalEngine, collection: list[Document]) -> None:
    feed(engine, [Upsert(document) for document in collection[:60]])
    code = """
import numpy as np
from clipsearch.engine import EngineQuery
engine = LocalEngine.open(Path(sys.argv[1]))
for mode in ("bm25", "vector", "hybrid"):
    query = EngineQuery(mode, ("dog",), np.eye(1, 16, dtype=np.float32)[0], facets=("class",))
    assert engine.search(query).hits
assert engine.count() == 60 and engine.get(["photos/0001.jpg"])[0]
heavy = ("lancedb", "pyarrow", "pandas", "torch", "transformers")
print([name for name in heavy if name in sys.modules])
"""
    light = CHILD.format(path=[]).replace("import test_local_engine as t\n", "")
    light = light.replace("from clipsearch.engines import batches\n", "")
    program = [sys.executable, "-c", light + code, engine.target]
    answer = subprocess.run(program, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "[]", answer.stderr
