"""The embedded engine: writing and reading back."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_collection import DIMENSION, feed, make_document, same

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.store import Store
from clipsearch.engines.local.vectors import blocks
from clipsearch.engines.local.writing import placing, upkeep
from clipsearch.engines.local.writing import write as batches
from clipsearch.operations import Delete, Operation, Update, Upsert


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
        "infinite": replace(good, numbers={"year": float("inf")}),
    }
    operations: list[Operation] = [Upsert(replace(d, id=name)) for name, d in broken.items()]
    infinite = {"year": float("inf")}
    operations += [
        Upsert(good),
        Update("missing", captions=("x",)),
        Update(good.id, numbers=infinite),
    ]
    outcomes = {outcome.operation.id: outcome.error for outcome in engine.feed(operations[:-1])}
    assert outcomes.pop(good.id) is None
    assert set(outcomes) == {*broken, "missing"}
    assert all(error and name in error for name, error in outcomes.items())
    (refused,) = engine.feed(operations[-1:])
    assert refused.error and "must be finite" in refused.error
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


def test_slow_streams_are_acknowledged_as_they_go(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SECONDS", 0.05)

    def slowly() -> Iterator[Operation]:
        for number in range(10):
            yield Upsert(make_document(number))
            time.sleep(0.02)

    written = engine.feed(slowly())
    next(written)
    assert 0 < engine.count() < 10
    assert len(list(written)) == 9


def test_nothing_is_written_where_nothing_changed(engine: LocalEngine) -> None:
    def files() -> dict[str, tuple[int, int]]:
        found = {path.name: path.stat() for path in Path(engine.target).iterdir()}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}

    feed(engine, [Upsert(make_document(1))])
    before = files()
    engine.finish_feed()
    reopened = LocalEngine.open(Path(engine.target))
    reopened.finish_feed()
    assert files() == before


def size_of(engine: LocalEngine) -> int:
    files = Path(engine.target).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def test_disk_does_not_grow_with_every_feed(
    engine: LocalEngine, collection: list[Document]
) -> None:
    feed(engine, [Upsert(document) for document in collection])
    first = size_of(engine)
    for seed in range(8):
        changed = [replace(make_document(n, seed), captions=("new",)) for n in range(400)]
        feed(engine, [Upsert(document) for document in changed])
    assert size_of(engine) < 1.2 * first


def test_what_is_deleted_gives_its_place_back(engine: LocalEngine) -> None:
    wide = [_wide(number) for number in range(3000)]
    made = LocalEngine.create(Path(engine.target).with_name("wide"), IndexInfo(256))
    feed(made, [Upsert(document) for document in wide])
    whole = size_of(made)
    feed(made, [Delete(document.id) for document in wide[::2]])
    assert size_of(made) < 0.65 * whole
    kept = [document for place, document in enumerate(wide) if place % 2]
    found = {document.id: document for document in made.visit(embeddings=True)}
    assert all(same(found.pop(document.id), document) for document in kept) and not found
    # New ones go where there is room, and then behind.
    feed(made, [Upsert(document) for document in wide[::2]])
    assert size_of(made) < 1.1 * whole
    assert all(map(same, made.get([d.id for d in wide], embeddings=True), wide))
    made.close()


def _wide(number: int) -> Document:
    vector = np.random.default_rng(number).standard_normal(256)
    unit = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Document(f"{number:05}", (f"picture {number}",), embedding=unit)


def test_vectors_move_between_files_and_stay_their_documents(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocks, placing):
        monkeypatch.setattr(module, "BLOCK", 512)
    documents = {n: make_document(n) for n in range(2000)}
    feed(engine, [Upsert(document) for document in documents.values()])
    chance = random.Random(1)
    for round in range(6):
        gone = chance.sample(sorted(documents), len(documents) // 3)
        feed(engine, [Delete(documents.pop(number).id) for number in gone])
        for number in chance.sample(range(2000), 200):
            documents[number] = make_document(number, seed=round)
        feed(engine, [Upsert(document) for document in documents.values()])
        reopened = LocalEngine.open(Path(engine.target))
        found = {document.id: document for document in reopened.visit(embeddings=True)}
        assert set(found) == {document.id for document in documents.values()}
        assert all(same(found[document.id], document) for document in documents.values())
        used = sum(block.used for block in open_store(engine).state().blocks)
        assert used - len(documents) <= max(upkeep.LEAST_FREE, upkeep.MOST_FREE * used) + 512
    assert not checksums.verify(Path(engine.target)).broken


def test_a_document_whose_slot_is_given_up_is_not_found(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocks, placing):
        monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(upkeep, "LEAST_FREE", 4)
    documents = [make_document(number) for number in range(200)]
    feed(engine, [Upsert(document) for document in documents])
    # The last file of vectors holds nothing more, and its rows stay in the one segment.
    feed(engine, [Delete(document.id) for document in documents[180:]])
    store = open_store(engine)
    assert max(block.first + block.used for block in store.state().blocks) < 200
    assert [segment.rows for segment in store.state().segments] == [200]
    store.close()
    reopened = LocalEngine.open(Path(engine.target))
    assert reopened.get([each.id for each in documents[170:]])[10:] == [None] * 20
    feed(engine, [Upsert(document) for document in documents[190:]])
    assert engine.count() == reopened.count() == 190


def open_store(engine: LocalEngine) -> Store:
    return Store(Path(engine.target))


def test_one_change_writes_no_more_where_there_are_more_documents(tmp_path: Path) -> None:
    written = {}
    for count in (500, 8000):
        engine = LocalEngine.create(tmp_path / str(count), IndexInfo(DIMENSION))
        feed(engine, [Upsert(make_document(number)) for number in range(count)])
        before = _times(engine)
        feed(engine, [Update(make_document(7).id, captions=("changed",))])
        feed(engine, [Upsert(replace(make_document(8), id="new"))])
        feed(engine, [Delete(make_document(9).id)])
        now = _times(engine)
        new = [name for name in now if name.startswith("segment") and now[name] != before.get(name)]
        written[count] = sum((Path(engine.target) / name).stat().st_size for name in new)
        assert sum(name.startswith("segment") for name in now) <= 3
        engine.close()
    assert written[8000] <= written[500] < 200_000


def _times(engine: LocalEngine) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(engine.target).iterdir()}
