"""Digests of what was compared: a feed looks at what changed, and ends where a whole one would."""

import io
import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_engine import FakeEngine

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.feed import plan as feed_plan
from clipsearch.feed import target as indexing
from clipsearch.feed import vectors as feed_vectors
from clipsearch.feed.feed import feed
from clipsearch.feed.ledger import compared
from clipsearch.feed.ledger.compared import NOT_LOOKED_AT, Compared, Row, document_hashes
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.operations import Operation

DIMENSION = 4


# The table, against a dict


def row_of(number: int) -> Row:
    return np.array([number, number + 1], np.uint64)


def held(connection: sqlite3.Connection) -> dict[int, tuple[int, ...]]:
    found = compared.load(connection, "photos")
    assert (np.diff(found.ids.astype(np.float64)) >= 0).all()
    return dict(zip(found.ids.tolist(), map(tuple, found.rows.tolist()), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_any_changes_equal_those_of_a_dict(seed: int) -> None:
    chance = random.Random(seed)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(compared.COMPARED)
    expected = {f"ü{number}": row_of(number) for number in range(1, 3000)}
    ids = list(expected)
    chance.shuffle(ids)
    rows = np.array([expected[each] for each in ids])
    for name in ("photos", "others"):
        compared.write_all(connection, name, ids, Compared(document_hashes(ids), rows))
    for _ in range(20):
        changes: dict[str, Row | None] = {}
        for each in chance.sample(ids, 30) + [f"new{chance.randrange(100)}" for _ in range(5)]:
            changes[each] = chance.choice([None, NOT_LOOKED_AT, row_of(chance.randrange(9, 10**9))])
        compared.change(connection, "photos", changes)
        for each, row in changes.items():
            expected.pop(each, None)
            if row is not None:
                expected[each] = row
        by_hash = dict(zip(document_hashes(expected).tolist(), expected, strict=True))
        assert held(connection) == {key: tuple(expected[by_hash[key]].tolist()) for key in by_hash}
        some = chance.sample(sorted(by_hash), 20)
        found = set(compared.ids_at(connection, "photos", np.array(some, np.uint64)))
        assert found == {by_hash[key] for key in some}
    assert len(compared.load(connection, "others").ids) == 2999


def test_what_differs_is_what_a_comparison_one_by_one_finds() -> None:
    chance = np.random.default_rng(0)
    ids = np.sort(chance.choice(10_000, 500, replace=False).astype(np.uint64))
    rows = chance.integers(0, 3, (500, 2)).astype(np.uint64)
    given = chance.choice(10_000, 800, replace=False).astype(np.uint64)
    given[:300] = chance.choice(ids, 300, replace=False)
    given = np.unique(given)
    chance.shuffle(given)
    by_id = dict(zip(ids.tolist(), map(tuple, rows.tolist()), strict=True))
    given_rows = chance.integers(0, 3, (len(given), 2)).astype(np.uint64)
    for place, one in enumerate(given.tolist()):
        if one in by_id and chance.random() < 0.7:
            given_rows[place] = by_id[one]
    looked_at, left = Compared(ids, rows).differing(given, given_rows)
    expected = [
        place
        for place, one in enumerate(given.tolist())
        if by_id.get(one, (0, 0)) == (0, 0) or by_id[one] != tuple(given_rows[place].tolist())
    ]
    assert looked_at.tolist() == expected
    assert set(ids[left].tolist()) == set(by_id) - set(given.tolist())
    nothing = Compared(np.empty(0, np.uint64), np.empty((0, 2), np.uint64))
    assert nothing.differing(given, given_rows)[0].tolist() == list(range(len(given)))


# Whole feeds


@dataclass
class Collection:
    """A manifest of ready-made vectors that changes, and the engine that it is fed into."""

    folder: Path
    engine: FakeEngine
    rows: dict[str, dict[str, object]]
    chance: random.Random

    def write(self) -> None:
        pd.DataFrame([{"id": key, **row} for key, row in self.rows.items()]).to_parquet(self.path)

    @property
    def path(self) -> Path:
        return self.folder / "photos.parquet"

    def feed(self, **options: object) -> FeedReport:
        self.write()
        values = {
            "manifest": self.path,
            "index": str(self.folder / "fake"),
            "ledger": self.folder / "ledger.sqlite",
            "report": self.folder / "report.csv",
            **options,
        }
        return feed(FeedOptions(**values), io.StringIO())  # type: ignore[arg-type]

    def row(self) -> dict[str, object]:
        vector = [self.chance.uniform(0.1, 1) for _ in range(DIMENSION)]
        caption = f"caption {self.chance.randrange(1000)}"
        if self.chance.random() < 0.1:
            caption += "\x01"  # which no index can hold
        return {"caption": caption, "class": "x", "year": 2000, "embedding": vector}

    def change(self) -> None:
        """One row is changed, added, removed or moved."""
        key = self.chance.choice(list(self.rows))
        match self.chance.randrange(5):
            case 0:
                self.rows[key]["caption"] = f"new {self.chance.randrange(1000)}"
            case 1:
                self.rows[key]["embedding"] = self.row()["embedding"]
            case 2:
                self.rows[f"added{self.chance.randrange(10**9)}"] = self.row()
            case 3 if len(self.rows) > 5:
                del self.rows[key]
            case 4:
                self.rows[key] = self.rows.pop(key)


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    engine = FakeEngine(IndexInfo(dimension=DIMENSION))
    monkeypatch.setattr(indexing, "index_exists", lambda index: True)
    monkeypatch.setattr(indexing, "open_engine", lambda index: engine)
    made = Collection(tmp_path, engine, {}, random.Random(0))
    for number in range(60):
        made.rows[f"d{number:02}"] = made.row()
    return made


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the records that were compared with the ledger."""
    places: list[int] = []
    look = feed_plan.look

    def counted(plan: feed_plan.Plan, place: int, *others: object) -> feed_plan.Looked:
        places.append(place)
        return look(plan, place, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(feed_vectors, "look", counted)
    return places


def without_vectors(documents: dict[str, Document]) -> dict[str, Document]:
    return {key: replace(document, embedding=None) for key, document in documents.items()}


def of_a_new_feed(collection: Collection, folder: Path) -> dict[str, Document]:
    """What the same manifest gives in an index that knew nothing."""
    engine, collection.engine.documents = collection.engine.documents, {}
    info, collection.engine.info = collection.engine.info, IndexInfo(dimension=DIMENSION)
    folder.mkdir()
    collection.feed(ledger=folder / "ledger.sqlite")
    found, collection.engine.documents = collection.engine.documents, engine
    collection.engine.info = info
    return found


@pytest.mark.parametrize("seed", range(6))
def test_after_any_changes_the_index_is_as_a_new_one(
    collection: Collection, tmp_path: Path, seed: int
) -> None:
    """With feeds that are stopped, documents that are refused, and some that somebody deletes."""
    chance = collection.chance = random.Random(seed)
    engine, whole = collection.engine, collection.engine.feed
    collection.feed()
    for number in range(12):
        for _ in range(chance.randrange(4)):
            collection.change()
        if chance.random() < 0.3:
            stop_at = chance.randrange(4)

            def stopped(
                operations: Iterator[Operation], stop_at: int = stop_at
            ) -> Iterator[object]:
                for count, outcome in enumerate(whole(operations)):
                    if count == stop_at:
                        raise KeyboardInterrupt
                    yield outcome

            engine.feed = stopped  # type: ignore[assignment, method-assign]
            with suppress(KeyboardInterrupt):
                collection.feed(prune=True)
            engine.feed = whole  # type: ignore[method-assign]
            for _ in range(chance.randrange(2)):
                collection.change()
        engine.refuse = set(chance.sample(list(collection.rows), 2))
        collection.feed(prune=True)
        engine.refuse = set()
        report = collection.feed(prune=True)
        assert report.rejected == 0
        expected = of_a_new_feed(collection, tmp_path / str(number))
        assert without_vectors(engine.documents) == without_vectors(expected)
        for key, document in expected.items():
            np.testing.assert_allclose(engine.documents[key].embedding, document.embedding)


def test_one_change_is_one_look(collection: Collection, looked_at: list[int]) -> None:
    for row in collection.rows.values():
        row["caption"] = str(row["caption"]).removesuffix("\x01")
    assert collection.feed().fed == 60
    assert not looked_at  # new and plain: they pass by columns
    collection.rows["d30"]["caption"] = "all new"
    report = collection.feed()
    assert (report.updated, report.unchanged) == (1, 59)
    collection.rows["d10"]["embedding"] = [0.0, 1.0, 0.0, 0.0]
    report = collection.feed()
    assert (report.updated, report.unchanged) == (1, 59)
    collection.rows["added"] = collection.row() | {"caption": "one more"}
    report = collection.feed()
    assert (report.fed, report.unchanged) == (1, 60)
    assert looked_at == [30, 10, 60]


def test_one_record_that_goes_is_found_without_a_visit(
    collection: Collection, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.feed()
    looked_at.clear()
    monkeypatch.setattr(FakeEngine, "visit", None)
    del collection.rows["d07"]
    assert collection.feed().unchanged == 59  # nothing goes unless asked
    assert "d07" in collection.engine.documents
    report = collection.feed(prune=True)
    assert (report.removed, report.unchanged) == (1, 59)
    assert "d07" not in collection.engine.documents
    blanked = [n for n, row in enumerate(collection.rows.values()) if "\x01" in str(row["caption"])]
    assert set(looked_at) == set(blanked)
    assert collection.feed(prune=True).removed == 0


def test_what_is_said_of_a_record_is_said_at_each_feed(collection: Collection) -> None:
    count = sum("\x01" in str(row["caption"]) for row in collection.rows.values())
    assert count
    for _ in range(2):
        assert collection.feed().blanked == count
        collection.rows["d00"]["caption"] = f"changed {collection.chance.random()}"
        count = sum("\x01" in str(row["caption"]) for row in collection.rows.values())


def test_other_columns_are_a_reason_to_look_at_all(
    collection: Collection, looked_at: list[int]
) -> None:
    collection.feed()
    looked_at.clear()
    for row in collection.rows.values():
        row["place"] = "Ulm"
    assert collection.feed().updated == 60
    assert len(looked_at) == 60


def test_a_feed_that_has_not_ended_leaves_no_digests(collection: Collection) -> None:
    collection.feed()
    with Ledger.open(collection.folder / "ledger.sqlite") as ledger:
        context = ledger._fact("compared photos")
        assert context
        assert ledger.compared("photos", context) is not None
        assert ledger.compared("photos", "another") is None
    collection.rows["d30"]["caption"] = "all new"
    collection.engine.full_after = len(collection.engine.log)
    with pytest.raises(Exception, match="full"):
        collection.feed()
    with Ledger.open(collection.folder / "ledger.sqlite") as ledger:
        assert ledger.compared("photos", context) is None
    collection.engine.full_after = None
    report = collection.feed()
    assert (report.updated, report.unchanged) == (1, 59)


def test_counts_are_those_of_the_rows(collection: Collection) -> None:
    for number in range(6):
        collection.feed(prune=bool(number % 2))
        for _ in range(5):
            collection.change()
        with Ledger.open(collection.folder / "ledger.sqlite") as ledger:
            assert ledger._fact("counts") is not None
            kept = ledger.counts().by_data_set
            ledger._counts = None
            ledger._set_fact("counts", None)
            assert ledger.counts().by_data_set == kept
