"""Two ledgers on one index: what one of them does not know, it asks the index for."""

import io
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CLIPSEARCH, CODE
from fake_engine import FakeEngine
from vespa_stub import StubVespa

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import read_info, write_info
from clipsearch.feed.feed import feed
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.mark import OPEN_DAYS, FeedMark
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.feed_facts import OpenFeed

COUNT = 30


def write_vectors(path: Path, ids: list[str], seed: int, word: str = "caption") -> Path:
    chance = np.random.default_rng(seed)
    rows = {
        "id": ids,
        "caption": [f"{word} {identity}" for identity in ids],
        "embedding": list(chance.normal(size=(len(ids), 8)).astype(np.float32)),
    }
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


def ids(start: int, end: int) -> list[str]:
    return [f"d{number:02}" for number in range(start, end)]


class User:
    """One with a ledger of their own."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder = folder
        self.index = index

    def feed(self, manifest: Path, **options: object) -> FeedReport:
        values = {
            "manifest": manifest,
            "index": self.index,
            "ledger": self.folder / "ledger.sqlite",
            "report": self.folder / "report.csv",
            **options,
        }
        return feed(FeedOptions(**values), io.StringIO())  # type: ignore[arg-type]

    def ledger(self) -> Ledger:
        return Ledger.open(self.folder / "ledger.sqlite")


def brief(report: FeedReport) -> tuple[int, int, int, int]:
    return report.fed, report.updated, report.unchanged, report.rejected


class Visits:
    """How often all documents were visited."""

    def __init__(self, stub: StubVespa) -> None:
        self._stub = stub
        self._seen = 0

    def new(self) -> int:
        visits = [
            request
            for request in self._stub.requests
            if request.path.endswith("/image/docid") and "continuation" not in request.query
        ]
        new, self._seen = len(visits) - self._seen, len(visits)
        return new


@pytest.fixture
def stub() -> Iterator[StubVespa]:
    with StubVespa(dimension=8) as vespa:
        client = connect(vespa.url)
        write_info(client, IndexInfo(8))
        client.close()
        yield vespa


@pytest.fixture
def users(stub: StubVespa, tmp_path: Path) -> tuple[User, User]:
    return User(tmp_path / "u1", stub.url), User(tmp_path / "u2", stub.url)


def info_of(stub: StubVespa) -> IndexInfo:
    client = connect(stub.url)
    try:
        info = read_info(client)
    finally:
        client.close()
    assert info is not None
    return info


def set_info(stub: StubVespa, info: IndexInfo) -> None:
    client = connect(stub.url)
    write_info(client, info)
    client.close()


def test_what_another_ledger_fed_is_not_called_unchanged(
    users: tuple[User, User], tmp_path: Path
) -> None:
    """u1 feeds a, u2 replaces a third of it by b, u1 feeds a again."""
    one, two = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, COUNT), 0)
    b = write_vectors(tmp_path / "b.parquet", ids(20, COUNT), 1, "of b")
    assert brief(one.feed(a)) == (COUNT, 0, 0, 0)
    # Whoever means to replace them says so.
    assert brief(two.feed(b)) == (0, 0, 0, 10)
    assert brief(two.feed(b, data_set="a")) == (0, 10, 0, 0)
    report = one.feed(a)
    assert brief(report) == (0, 10, 20, 0)
    assert any("10 documents were changed since by another feed" in note for note in report.notes)


def test_two_data_sets_of_two_ledgers(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    one, two = users
    a = write_vectors(tmp_path / "u1" / "photos.parquet", ids(0, 10), 0)
    b = write_vectors(tmp_path / "u2" / "photos.parquet", ids(5, 15), 1, "of b")
    assert brief(one.feed(a)) == (10, 0, 0, 0)
    assert brief(two.feed(b, prune=True)) == (5, 0, 0, 5)
    assert brief(one.feed(a, prune=True)) == (0, 0, 10, 0)
    assert len(stub.images()) == 15
    assert stub.images()["d05"]["captions"] == ["caption d05"]


def test_the_same_manifest_of_two_ledgers_is_one_data_set(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    """As where the folder for state was lost: nothing is fed anew, and nothing rejected."""
    one, two = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    one.feed(a)
    assert brief(two.feed(a)) == (0, 0, 10, 0)
    assert [each.name for each in info_of(stub).data_sets] == ["a"]


def test_another_manifest_at_the_same_place_is_not_taken_for_it(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    """Two machines have a /data/photos.parquet each."""
    one, two = users
    place = tmp_path / "photos.parquet"
    one.feed(write_vectors(place, ids(0, 10), 0))
    assert brief(two.feed(write_vectors(place, ids(0, 12), 1), prune=True)) == (2, 0, 0, 10)
    assert [each.name for each in info_of(stub).data_sets] == ["photos", f"{tmp_path.name}-photos"]


def test_a_visit_only_where_somebody_else_has_fed(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    one, two = users
    visits = Visits(stub)
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    b = write_vectors(tmp_path / "b.parquet", ids(50, 60), 1)
    one.feed(a)
    visits.new()
    assert (one.feed(a).unchanged, visits.new()) == (10, 0)
    assert (two.feed(b).fed, visits.new()) == (10, 1)
    assert (two.feed(b).unchanged, visits.new()) == (10, 0)
    assert (one.feed(a).unchanged, visits.new()) == (10, 1)
    # Nothing was written, and both know all: nobody needs to look again.
    assert (one.feed(a).unchanged, visits.new()) == (10, 0)
    assert (two.feed(b).unchanged, visits.new()) == (10, 0)


def test_a_delete_of_one_ledger_is_seen_by_the_other(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    one, two = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    one.feed(a)
    two.feed(a)
    command = [*CLIPSEARCH, "delete", "d03", "--yes", "--index", stub.url]
    done = subprocess.run(
        [*command, "--ledger", str(two.folder / "ledger.sqlite")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # As many documents as before, so that counting alone shows nothing.
    two.feed(write_vectors(tmp_path / "c.parquet", ["new"], 3))
    assert brief(one.feed(a)) == (1, 0, 9, 0)
    assert "d03" in stub.images()


KILLED = """
import os, sys
from pathlib import Path
from clipsearch.feed import writing as feed_writing
from clipsearch.feed.ledger import mark as feed_mark
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
manifest, index, folder, moment = sys.argv[1:]
def die(*values, **named):
    os.kill(os.getpid(), 9)
if moment == "before the index knows":
    begin_feed = feed_mark.Ledger.begin_feed
    def begun(ledger, feed):
        begin_feed(ledger, feed)
        die()
    feed_mark.Ledger.begin_feed = begun
elif moment == "before the first write":
    feed_writing.Writing.run = die
elif moment == "half-way":
    settle = feed_writing.Writing._settle
    left = 4
    def killed(writing, outcome, step):
        global left
        left -= 1
        if left < 0:
            die()
        settle(writing, outcome, step)
    feed_writing.Writing._settle = killed
elif moment == "before it ends":
    feed_mark.FeedMark.end = die
elif moment == "before the ledger knows":
    feed_mark.Ledger.end_feed = die
feed(FeedOptions(manifest=Path(manifest), index=index, ledger=Path(folder) / "ledger.sqlite",
    report=Path(folder) / "report.csv"))
"""
MOMENTS = (
    "before the index knows",
    "before the first write",
    "half-way",
    "before it ends",
    "before the ledger knows",
)


def kill(user: User, manifest: Path, moment: str) -> None:
    user.folder.mkdir(exist_ok=True)
    arguments = [str(manifest), user.index, str(user.folder), moment]
    done = subprocess.run([*CODE, KILLED, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_and_the_other_ledger_sees_it(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path, moment: str
) -> None:
    one, two = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    b = write_vectors(tmp_path / "b.parquet", ids(5, 15), 1, "of b")
    one.feed(a)
    two.feed(a)
    kill(one, write_vectors(tmp_path / "a.parquet", ids(0, 20), 5, "new"), moment)
    # The other data set takes nothing that the killed feed has written.
    held = {name: fields["captions"] for name, fields in stub.images().items()}
    report = two.feed(b)
    assert report.rejected == len(set(ids(5, 15)) & set(held))
    for name, texts in held.items():
        assert stub.images()[name]["captions"] == texts
    report = one.feed(a)
    taken = set(ids(5, 15)) - set(held)
    assert report.rejected == len(taken)
    assert report.fed + report.updated + report.unchanged == 20 - len(taken)
    for name, fields in stub.images().items():
        assert fields["captions"] == [f"of b {name}" if name in taken else f"new {name}"]
    # Nothing is left open, and everybody knows it.
    assert info_of(stub).open_feeds == ()
    assert one.feed(a).unchanged == 20 - len(taken)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_gone_on_alone_visits_nothing(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path, moment: str
) -> None:
    one, _ = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    one.feed(a)
    kill(one, write_vectors(tmp_path / "a.parquet", ids(0, 20), 5, "new"), moment)
    visits = Visits(stub)
    visits.new()
    one.feed(a)
    # Between the two last marks it cannot tell any more, and looks.
    assert visits.new() == (1 if moment == "before the ledger knows" else 0)
    assert {fields["captions"][0] for fields in stub.images().values()} == {
        f"new {name}" for name in ids(0, 20)
    }
    assert one.feed(a).unchanged == 20
    assert visits.new() == 0


def test_killed_in_one_data_set_another_of_the_same_ledger_takes_nothing(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    one, _ = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    b = write_vectors(tmp_path / "b.parquet", ids(0, 10), 1, "of b")
    kill(one, a, "half-way")
    written = set(stub.images())
    assert written
    assert brief(one.feed(b)) == (10 - len(written), 0, 0, len(written))
    assert all(stub.images()[name]["captions"] == [f"caption {name}"] for name in written)


def test_two_feeds_at_once_trust_nobody_afterwards(
    users: tuple[User, User], stub: StubVespa, tmp_path: Path
) -> None:
    """The one that ends first must not believe that it knows what the other goes on to write."""
    one, two = users
    a = write_vectors(tmp_path / "a.parquet", ids(0, 10), 0)
    b = write_vectors(tmp_path / "b.parquet", ids(50, 60), 1)
    one.feed(a)
    two.feed(b)
    kill(one, write_vectors(tmp_path / "a.parquet", ids(0, 12), 5, "new"), "half-way")  # at work
    visits = Visits(stub)
    for _ in range(2):
        visits.new()
        two.feed(write_vectors(tmp_path / "b.parquet", ids(50, 60), random.randrange(99)))
        assert visits.new() == 1
    assert len(info_of(stub).open_feeds) == 1
    # A feed that will never end is forgotten in time.
    info = info_of(stub)
    old = [replace(each, began=each.began - OPEN_DAYS * 86_400) for each in info.open_feeds]
    set_info(stub, replace(info, open_feeds=tuple(old)))
    two.feed(write_vectors(tmp_path / "b.parquet", ids(50, 60), 777))
    visits.new()
    assert two.feed(tmp_path / "b.parquet").unchanged == 10
    assert visits.new() == 0
    assert info_of(stub).open_feeds == ()


# Every order of the steps of two feeds, against what is true


class Steps:
    """A feed of one ledger, step by step."""

    def __init__(self, engine: FakeEngine, ledger: Ledger, name: str) -> None:
        self.mark = FeedMark(engine, ledger, alone=False)  # type: ignore[arg-type]
        self.engine, self.ledger, self.name = engine, ledger, name
        self.trusted = self.mark.is_current() or self.mark.goes_on(name)
        self.mark.agree()

    def begin(self) -> None:
        self.mark.begin(self.name)

    def write(self) -> None:
        number = len(self.engine.documents)
        self.engine.documents[f"{self.name}{number}"] = Document(f"{self.name}{number}")

    def end(self) -> None:
        self.mark.end()


@pytest.mark.parametrize("seed", range(60))
def test_no_order_of_steps_makes_a_ledger_believe_too_much(tmp_path: Path, seed: int) -> None:
    """A ledger that calls itself current has missed no write of another one."""
    chance = random.Random(seed)
    engine = FakeEngine(IndexInfo(8, index_id="i"))
    ledgers = {name: Ledger.open(tmp_path / f"{name}.sqlite") for name in "ab"}
    known: dict[str, set[str]] = {name: set() for name in "ab"}
    running: dict[str, list[str]] = {}
    feeds: dict[str, Steps] = {}
    for _ in range(60):
        name = chance.choice("ab")
        if name not in running:
            feeds[name] = Steps(engine, ledgers[name], name)
            others = {each for each in engine.documents if not each.startswith(name)}
            if feeds[name].trusted:
                assert known[name] >= others
            known[name] = set(engine.documents)  # what a visit, or the ledger itself, tells
            running[name] = ["begin", *["write"] * chance.randrange(3), "end"]
            if chance.random() < 0.2:
                running[name].pop()  # killed before it ends
        elif running[name]:
            getattr(feeds[name], running[name].pop(0))()
        else:
            del running[name]
    for ledger in ledgers.values():
        ledger.close()


def test_open_feeds_travel_with_the_info() -> None:
    info = IndexInfo(8, open_feeds=(OpenFeed("t", 1.5, "s"),), last_feed="t")
    assert IndexInfo.from_json(asdict(info)) == info
