"""Requests under way together in one thread: what comes whole is read, all else is left to others.

The server here answers each request as its path says, on connections that are kept.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from clipsearch.engines.vespa.http import connection
from clipsearch.engines.vespa.http.connection import (
    Client,
    ConnectionSettings,
    PoolTransport,
    Reply,
)
from clipsearch.engines.vespa.http.multiplexed import Multiplexed
from clipsearch.engines.vespa.http.throttle import FIRST_LIMIT, Throttle

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LENGTH = HEAD + b"Content-Length: 2\r\n\r\n{}"
ANSWERS: dict[bytes, tuple[bytes | float, ...]] = {
    b"/length": (LENGTH,),
    b"/chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",),
    b"/in-pieces": (LENGTH[:20], 0.02, LENGTH[20:-1], 0.02, LENGTH[-1:]),
    b"/and-closes": (HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",),
    b"/busy": (b"HTTP/1.1 429 X\r\nContent-Length: 2\r\n\r\n{}",),
    b"/no-end": (HEAD + b"\r\n{}",),
    b"/too-long": (LENGTH + b"}",),
    b"/no-http": (b"hello\r\n\r\n",),
    b"/never": (LENGTH[:-1],),
}


class Server:
    """Answers by path; keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock, sock.makefile("rb") as file:
            while head := file.readline():
                size = 0
                while (line := file.readline()).strip():
                    head += line
                    if line.lower().startswith(b"content-length:"):
                        size = int(line.split(b":")[1])
                self.requests.append(head + file.read(size))
                for step in ANSWERS[head.split()[1]]:
                    if isinstance(step, bytes):
                        sock.sendall(step)
                    else:
                        time.sleep(step)
                if b"/never" not in head and b"close" in ANSWERS[head.split()[1]][0]:
                    return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def opened(server: Server, connections: int) -> PoolTransport:
    """A pool with so many open connections that nobody uses."""
    transport = PoolTransport(server.url, ConnectionSettings())
    taken = []
    for _ in range(connections):
        transport.send("POST", "/length", b"", "application/json", 5.0)
        taken.append(transport.take_open())
    for each in taken:
        assert each is not None
        transport.give_back(each)
    return transport


def all_answers(many: Multiplexed[str]) -> dict[str, Reply | None]:
    found: dict[str, Reply | None] = {}
    until = time.monotonic() + 5
    while len(many) and time.monotonic() < until:
        found.update(many.answers(0.05))
    assert not len(many)
    return found


def test_what_comes_whole_is_an_answer_and_all_else_is_left(server: Server) -> None:
    transport, throttle = opened(server, len(ANSWERS)), Throttle(32)
    many: Multiplexed[str] = Multiplexed(transport, throttle, timeout=0.3)
    for path in ANSWERS:
        assert many.send(path.decode(), "POST", path.decode(), b"{}")
    assert not many.send("one more", "POST", "/length", b"{}"), "no connection is left"
    found = all_answers(many)
    whole = {name: None if reply is None else reply.status for name, reply in found.items()}
    assert whole == {
        "/length": 200,
        "/chunks": 200,
        "/in-pieces": 200,
        "/and-closes": 200,
        "/busy": 429,
        "/no-end": None,
        "/too-long": None,
        "/no-http": None,
        "/never": None,
    }
    assert {reply.body for reply in found.values() if reply is not None} == {b"{}"}
    kept = [transport.take_open() for _ in range(5)]
    assert [each is not None for each in kept] == [True] * 4 + [False], "those that may be kept"
    assert all(throttle.enter() >= 0 for _ in range(throttle.limit)), "no place is lost"
    transport.close()


def test_it_sends_what_the_transport_would(server: Server) -> None:
    transport = opened(server, 1)
    body = b'{"long": "' + b"x" * 3_000_000 + b'"}'  # more than a socket takes at once
    transport.send("POST", "/length", body, "application/json", 5.0)
    many: Multiplexed[str] = Multiplexed(transport, Throttle(4), timeout=5)
    assert many.send("long", "POST", "/length", body)
    assert all_answers(many)["long"] == Reply(200, b"{}")
    assert server.requests[-1] == server.requests[-2]
    transport.close()


def test_it_keeps_to_the_throttle_and_lets_those_who_wait_go_first(server: Server) -> None:
    transport, throttle = opened(server, 2), Throttle(1)
    many: Multiplexed[str] = Multiplexed(transport, throttle, timeout=5)
    assert many.send("first", "POST", "/length", b"{}")
    assert not many.send("second", "POST", "/length", b"{}")
    entered = threading.Event()

    def wait() -> None:
        throttle.enter()
        entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert all_answers(many)
    assert entered.wait(5), "a thread that waits is not kept out by requests that go on"
    waiting.join()
    assert not many.send("second", "POST", "/length", b"{}")
    transport.close()


def test_closed_it_waits_for_nothing_and_gives_no_half_answer_to_others(server: Server) -> None:
    transport = opened(server, 1)
    many: Multiplexed[str] = Multiplexed(transport, Throttle(4), timeout=60)
    assert many.send("never", "POST", "/never", b"{}")
    began = time.monotonic()
    many.close()
    assert time.monotonic() - began < 20 and transport.take_open() is None


def test_a_connection_that_was_closed_meanwhile_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.0)
    transport = opened(server, 1)
    taken = transport.take_open()
    assert taken is not None
    taken.sock.shutdown(socket.SHUT_RDWR)
    transport.give_back(taken)
    assert transport.take_open() is None


def test_only_a_pool_in_the_open_is_shared() -> None:
    settings = ConnectionSettings()
    plain, encrypted = "http://127.0.0.1:1", "https://127.0.0.1:1"
    throttle = Throttle(FIRST_LIMIT)
    for url, shared in ((plain, True), (encrypted, False)):
        client = Client(url, PoolTransport(url, settings), settings)
        assert (Multiplexed.over(client, throttle) is not None) is shared
