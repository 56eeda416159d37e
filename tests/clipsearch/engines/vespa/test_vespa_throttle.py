"""How many requests are under way at once, by what Vespa answers."""

import threading

import pytest
from vespa_stub import StubVespa, numbered_document

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http import connection
from clipsearch.engines.vespa.http.connection import (
    ConnectionFailedError,
    ConnectionSettings,
    Reply,
    connect,
)
from clipsearch.engines.vespa.http.throttle import FIRST_LIMIT, SHRINK, Throttle, ThrottledTransport
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.operations import Upsert


def run_rounds(throttle: Throttle, capacity: int, rounds: int) -> list[tuple[int, int]]:
    """(sent, refused) a round, against a server that refuses what is over `capacity`."""
    history = []
    for _ in range(rounds):
        sent = [throttle.enter() for _ in range(throttle.limit)]
        refused = max(0, len(sent) - capacity)
        for number, round_ in enumerate(sent):
            throttle.leave(round_, 429 if number < refused else 200)
        history.append((len(sent), refused))
    return history


def test_it_grows_to_the_most_and_no_further() -> None:
    throttle = Throttle(50)
    assert throttle.limit == FIRST_LIMIT
    sent = [sent for sent, _ in run_rounds(throttle, 1000, 60)]
    assert sent == sorted(sent) and max(sent) == 50
    assert Throttle(3).limit == 3


def test_idle_connections_are_no_reason_to_grow() -> None:
    throttle = Throttle(50)
    for _ in range(100):
        throttle.leave(throttle.enter(), 200)
    assert throttle.limit == FIRST_LIMIT


def test_a_full_queue_shrinks_it_once_a_round() -> None:
    throttle = Throttle(FIRST_LIMIT)
    sent = [throttle.enter() for _ in range(FIRST_LIMIT)]
    for round_ in sent:
        throttle.leave(round_, 429)
    assert throttle.limit == int(FIRST_LIMIT * SHRINK)


def test_it_settles_about_what_the_server_takes() -> None:
    history = run_rounds(Throttle(500), 40, 400)[100:]
    sent = sum(sent for sent, _ in history)
    refused = sum(refused for _, refused in history)
    assert refused < 0.02 * sent, "hardly anything is refused"
    assert sent - refused > 0.75 * 40 * len(history), "and the server is kept busy"
    assert max(sent for sent, _ in history) <= 45


def test_it_never_stops_altogether() -> None:
    throttle = Throttle(8)
    assert run_rounds(throttle, 0, 30)[-1] == (1, 1)
    run_rounds(throttle, 4, 30)
    assert throttle.limit >= 2, "and recovers"


@pytest.mark.parametrize("status", [503, 504, 502, None])
def test_other_failures_leave_it(status: int | None) -> None:
    throttle = Throttle(50)
    for _ in range(50):
        throttle.leave(throttle.enter(), status)
    assert throttle.limit == FIRST_LIMIT


def test_who_fails_frees_the_place() -> None:
    class Broken:
        def send(self, *arguments: object) -> Reply:
            raise ConnectionFailedError("reset")

        def close(self) -> None:
            raise AssertionError("not its to close")

    transport = ThrottledTransport(Broken(), Throttle(1))
    for _ in range(3):
        with pytest.raises(ConnectionFailedError):
            transport.send("GET", "/", None, "", 1.0)
    transport.close()


def test_threads_wait_for_room() -> None:
    throttle, lock = Throttle(4), threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        for _ in range(200):
            sent_in = throttle.enter()
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
            throttle.leave(sent_in, 200)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert most <= 4


def test_a_vespa_that_takes_six_is_asked_for_about_six(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(connection, "LONGEST_WAIT_SECONDS", 0.05)
    with StubVespa(dimension=8, delay=0.01) as stub:
        write_info(connect(stub.url), IndexInfo(dimension=8))
        stub.choose_fault = lambda request: "429" if stub.under_way > 6 else None
        client = connect(stub.url, ConnectionSettings(connections=24, feed_patience=60))
        engine = VespaEngine(client, IndexInfo(dimension=8))
        outcomes = list(engine.feed(Upsert(numbered_document(number)) for number in range(400)))
        assert len(outcomes) == 400 and not [one for one in outcomes if one.error]
        assert len(stub.images()) == 400
        refused = len(stub.writes()) - 400
        assert 0 < refused < 200, f"{refused} of 400 were refused"
