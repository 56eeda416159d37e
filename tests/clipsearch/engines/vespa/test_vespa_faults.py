"""Faults between clipsearch and Vespa: nothing lost, nothing twice, nothing partial in silence."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import assert_nothing_lost_and_nothing_twice
from vespa_stub import Request, StubVespa, numbered_document

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http import connection
from clipsearch.engines.vespa.http.connection import ConnectionSettings, connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.engines.vespa.writer import FeedStoppedError
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert
from finetune.errors import EngineError

INFO = IndexInfo(dimension=8, column_order=("year",))
SETTINGS = ConnectionSettings(connections=4, search_patience=5, feed_patience=5)
IMPATIENT = ConnectionSettings(connections=4, search_patience=0.3, feed_patience=0.3)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(connection, "LONGEST_WAIT_SECONDS", 0.1)


@pytest.fixture
def stub() -> Iterator[StubVespa]:
    with StubVespa(dimension=8) as vespa:
        write_info(connect(vespa.url), INFO)
        vespa.requests.clear()
        yield vespa


def upserts(count: int) -> list[Operation]:
    return [Upsert(numbered_document(number)) for number in range(count)]


def feed(stub: StubVespa, operations: Iterable[Operation]) -> list[Outcome]:
    return list(VespaEngine.open(stub.url, SETTINGS).feed(operations))


@pytest.mark.parametrize("fault", ["503", "429", "504", "502", "reset", "lost", "half", "not-json"])
def test_a_burst_of_faults_loses_nothing(stub: StubVespa, fault: str) -> None:
    engine = VespaEngine.open(stub.url, SETTINGS)
    stub.faults.extend([fault, None, fault] * 8)
    outcomes = list(engine.feed(upserts(40)))
    assert [outcome.error for outcome in outcomes] == [None] * 40
    assert sorted(outcome.operation.id for outcome in outcomes) == sorted(stub.images())
    assert len(stub.images()) == 40
    assert len(stub.writes()) == 40 + 16, "each fault was tried again, once"


def test_faults_at_random_on_every_kind_of_operation(stub: StubVespa) -> None:
    kinds = ["503", "429", "reset", "lost", "half", "not-json"]
    dice = np.random.default_rng(7)
    lock = threading.Lock()

    def choose(request: Request) -> str | None:
        with lock:
            return str(dice.choice(kinds)) if dice.random() < 0.3 else None

    engine = VespaEngine.open(stub.url, SETTINGS)
    stub.choose_fault = choose
    operations: list[Operation] = upserts(60)
    operations += [Update(f"p/{n}.jpg", captions=(f"new {n}",)) for n in range(0, 60, 2)]
    operations += [Delete(f"p/{n}.jpg") for n in range(0, 60, 5)]
    operations += [Upsert(numbered_document(n, "back again")) for n in range(0, 60, 15)]
    outcomes = list(engine.feed(operations))
    assert len(outcomes) == len(operations)
    assert all(outcome.error is None for outcome in outcomes)
    assert {id(outcome.operation) for outcome in outcomes} == {id(one) for one in operations}
    stub.choose_fault = None
    held = {one.id: one.captions for one in engine.visit()}
    wanted = {}
    for n in range(60):
        if n % 15 == 0:
            wanted[f"p/{n}.jpg"] = ("back again",)
        elif n % 5:
            wanted[f"p/{n}.jpg"] = (f"new {n}",) if n % 2 == 0 else ("a red circle",)
    assert held == wanted
    assert engine.count() == len(wanted)


def test_faults_before_an_index_that_is_there(stub: StubVespa) -> None:
    """The same that the live tests do before a real Vespa."""
    feed(stub, upserts(12))
    assert_nothing_lost_and_nothing_twice(stub.url, numbered_document(1))


def test_operations_of_one_id_keep_their_order(stub: StubVespa) -> None:
    operations: list[Operation] = []
    for turn in range(20):
        operations += [Upsert(numbered_document(n, f"turn {turn}")) for n in range(3)]
    stub.faults.extend([None, "503", "lost"] * 10)
    outcomes = feed(stub, operations)
    assert len(outcomes) == 60
    assert {doc["captions"][0] for doc in stub.images().values()} == {"turn 19"}
    turns = {n: [] for n in range(3)}  # type: dict[int, list[int]]
    for request in stub.writes():
        number = int(request.path.rsplit("%2F")[-1].removesuffix(".jpg"))
        turns[number].append(int(request.body["fields"]["captions"][0].split()[1]))
    assert all(seen == sorted(seen) for seen in turns.values())


def test_other_errors_are_not_tried_again(stub: StubVespa) -> None:
    bad = Document("bad", ("x",), embedding=numbered_document(1).embedding)
    stub.dimension = 9
    (outcome,) = feed(stub, [Upsert(bad)])
    assert outcome.error is not None and "Expected 9 values" in outcome.error
    assert len(stub.writes()) == 1


def test_documents_that_no_engine_takes_are_not_sent(stub: StubVespa) -> None:
    embedding = numbered_document(1).embedding
    assert embedding is not None
    bad = [
        Document("", embedding=embedding),
        Document("short", embedding=embedding[:7]),
        Document("nul\0", embedding=embedding),
        Document("long", embedding=embedding * 2),
        Document("..", embedding=embedding),
        Document("half\ud800", embedding=embedding),
    ]
    outcomes = feed(stub, map(Upsert, bad))
    assert [outcome.error is None for outcome in outcomes] == [False] * len(bad)
    assert stub.writes() == []


def test_ids_survive_the_address(stub: StubVespa) -> None:
    ids = [
        "a/b c.jpg",
        'quote\'s "q" & <b> / ? # % é',
        "100%.jpg",
        "日本語",
        "a+b",
        "A.jpg",
        "a.jpg",
    ]
    embedding = numbered_document(1).embedding
    assert all(
        one.error is None
        for one in feed(stub, [Upsert(Document(id_, (id_,), embedding=embedding)) for id_ in ids])
    )
    engine = VespaEngine.open(stub.url, SETTINGS)
    assert [found and found.captions for found in engine.get(ids)] == [(id_,) for id_ in ids]
    assert sorted(one.id for one in engine.visit()) == sorted(ids)
    everything = EngineQuery("vector", vector=embedding, exclude_ids=tuple(ids[:3]))
    assert {hit.document.id for hit in engine.search(everything).hits} == set(ids[3:])


def test_a_full_disk_stops_the_feed_and_pulls_no_more(stub: StubVespa) -> None:
    pulled = []

    def operations() -> Iterator[Operation]:
        for one in upserts(1000):
            pulled.append(one)
            yield one

    stub.choose_fault = lambda request: "507" if len(stub.images()) >= 20 else None
    engine = VespaEngine.open(stub.url, SETTINGS)
    done = []
    with pytest.raises(FeedStoppedError, match="External feed is blocked"):
        for outcome in engine.feed(operations()):
            done.append(outcome.operation.id)
            assert outcome.error is None
    assert sorted(done) == sorted(stub.images()), "what was acknowledged, and only that, is done"
    assert len(pulled) < 60


def test_a_vespa_that_stays_away_stops_the_feed(stub: StubVespa) -> None:
    engine = VespaEngine.open(stub.url, IMPATIENT)
    stub.choose_fault = lambda request: "503"
    with pytest.raises(FeedStoppedError, match="too much to do"):
        list(engine.feed(upserts(10)))
    stub.choose_fault = lambda request: "reset"
    with pytest.raises(FeedStoppedError, match=r"tried for 0\.3 seconds"):
        list(engine.feed(upserts(10)))


def test_an_error_of_the_input_comes_after_the_outcomes(stub: StubVespa) -> None:
    """pyvespa's feed_iterable would hang for ever here."""

    def operations() -> Iterator[Operation]:
        yield from upserts(9)
        raise OSError("the manifest broke off")

    done = []
    with pytest.raises(OSError, match="broke off"):
        for outcome in VespaEngine.open(stub.url, SETTINGS).feed(operations()):
            done.append(outcome)  # noqa: PERF402  (what came before the error counts)
    assert len(done) == len(stub.images()) == 9


def test_a_feed_that_is_left_early_ends_its_threads(stub: StubVespa) -> None:
    stub.delay = 0.02
    outcomes = VespaEngine.open(stub.url, SETTINGS).feed(upserts(500))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("vespa-feed")]
    assert len(stub.images()) < 50


def test_the_feed_keeps_its_connections_busy_and_no_more(stub: StubVespa) -> None:
    stub.delay = 0.02
    assert len(feed(stub, upserts(60))) == 60
    assert stub.most_under_way == SETTINGS.connections


@pytest.mark.parametrize("fault", ["503", "reset", "half", "not-json"])
def test_a_search_is_tried_again(stub: StubVespa, fault: str) -> None:
    feed(stub, upserts(12))
    engine = VespaEngine.open(stub.url, SETTINGS)
    query = EngineQuery("bm25", tokens=("red",))
    whole = engine.search(query)
    stub.faults.extend([fault, fault])
    again = engine.search(query)
    assert again.partial is None
    assert again.hits == whole.hits and again.total == whole.total == 12
    stub.faults.extend([fault, fault])
    assert len(list(engine.visit())) == 12


def test_a_search_that_gets_no_answer_is_an_error(stub: StubVespa) -> None:
    engine = VespaEngine.open(stub.url, IMPATIENT)
    query = EngineQuery("bm25", tokens=("red",))
    stub.choose_fault = lambda request: "503"
    with pytest.raises(EngineError, match="Connection failure on nodes"):
        engine.search(query)
    with pytest.raises(EngineError, match="Connection failure on nodes"):
        engine.count()
    stub.choose_fault = lambda request: "not-json"
    with pytest.raises(EngineError, match="not the JSON"):
        engine.search(query)


def test_an_answer_that_drips_is_given_up(stub: StubVespa) -> None:
    feed(stub, upserts(12))
    engine = VespaEngine.open(
        stub.url,
        ConnectionSettings(timeout=-4.5, search_patience=0.1),  # waits 0.5 s in all
    )
    stub.choose_fault = lambda request: "slow"
    start = time.monotonic()
    with pytest.raises(EngineError, match="seconds"):
        engine.search(EngineQuery("bm25", tokens=("red",)))
    assert time.monotonic() - start < 8


def test_nobody_there() -> None:
    with pytest.raises(EngineError, match="connection refused"):
        VespaEngine.open("http://127.0.0.1:1", IMPATIENT)


def test_no_index_there() -> None:
    with (
        StubVespa() as vespa,
        pytest.raises(EngineError, match="make one with: clipsearch deploy"),
    ):
        VespaEngine.open(vespa.url, IMPATIENT)


def test_info_is_kept_in_the_index(stub: StubVespa) -> None:
    info = IndexInfo(
        dimension=8,
        language="fr",
        encoder_fingerprint="abc",
        encoder_name="Été",
        number_columns=("year",),
        tag_columns=("class", "split"),
        bm25_weight=0.3,
        index_id="x",
    )
    engine = VespaEngine.open(stub.url, SETTINGS)
    engine.change_info(lambda _: info)
    assert engine.info == info == VespaEngine.open(stub.url, SETTINGS).info
    assert engine.count() == 0, "it is no picture"
    with pytest.raises(EngineError, match="another dimension needs a new index"):
        engine.change_info(lambda _: IndexInfo(dimension=9))


def test_a_token_is_sent_and_its_lack_is_named(
    stub: StubVespa, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.token = "secret"
    monkeypatch.delenv("VESPA_CLOUD_SECRET_TOKEN", raising=False)
    with pytest.raises(EngineError, match="VESPA_CLOUD_SECRET_TOKEN"):
        VespaEngine.open(stub.url)
    monkeypatch.setenv("VESPA_CLOUD_SECRET_TOKEN", "secret")
    assert VespaEngine.open(stub.url).info == INFO


def test_credentials_come_from_the_environment(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("CERT_FILE", "KEY_FILE", "CA_CERT_FILE")}
    environment = {f"VESPA_CLI_DATA_PLANE_{name}": str(path) for name, path in files.items()}
    with pytest.raises(EngineError, match="no such file"):
        ConnectionSettings.from_environment(environment)
    for path in files.values():
        path.touch()
    settings = ConnectionSettings.from_environment(environment)
    assert settings.certificate == str(files["CERT_FILE"])
    assert (settings.key, settings.authority) == (
        str(files["KEY_FILE"]),
        str(files["CA_CERT_FILE"]),
    )
    del environment["VESPA_CLI_DATA_PLANE_KEY_FILE"]
    with pytest.raises(EngineError, match="belong together"):
        ConnectionSettings.from_environment(environment)


@pytest.mark.parametrize(
    ("is_terminal", "patience", "lines"), [(True, 9, 1), (False, 9, 0), (True, 1, 0)]
)
def test_who_sits_at_a_terminal_is_told_of_a_wait_once(
    is_terminal: bool, patience: float, lines: int, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    gone = connect("http://127.0.0.1:1")
    stopped = threading.Event()
    stopped.set()
    for _ in range(2):
        with pytest.raises(EngineError, match="connection refused"):
            gone.call("GET", "/", patience=patience, stop=stopped)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert all(
        "http://127.0.0.1:1: connection refused; trying for 9 s more" in each for each in said
    )
