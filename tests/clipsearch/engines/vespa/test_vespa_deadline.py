"""No wait for Vespa without an end: one deadline for a whole answer, and Ctrl-C at any moment."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH
from raw_server import RawServer, Step, for_ever
from vespa_stub import Request, StubVespa, numbered_document

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http import connection, timed
from clipsearch.engines.vespa.http.connection import (
    Client,
    ConnectionFailedError,
    ConnectionSettings,
    PoolTransport,
    connect,
)
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.operations import Upsert

SETTINGS = ConnectionSettings(connections=4)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SILENT: list[Step] = [3600.0]
# Takes a fraction of a second; on a busy machine more, but never the 15 s of a request.
SOON = 8.0

ENDLESS: dict[str, Callable[[], Iterator[Step]]] = {
    "silence": lambda: iter(SILENT),
    "a status that drips": lambda: for_ever(b"H", 0.05),
    "headers that drip": lambda: iter([HEAD, *[b"x", 0.05] * 10_000]),
    "100 Continue, slowly": lambda: for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "100 Continue, at once": lambda: for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "a body without an end": lambda: iter([HEAD + b"\r\n", *[b"x" * 1000, 0.01] * 10_000]),
    "a body that drips": lambda: iter(
        [HEAD + b"Content-Length: 9999\r\n\r\n", *[b"x", 0.05] * 999]
    ),
    "chunks without an end": lambda: iter([CHUNKED, *[b"1\r\nx\r\n", 0.01] * 10_000]),
    "chunks at once": lambda: iter([CHUNKED, *[b"1\r\nx\r\n" * 500] * 10**6]),
    "a chunk's size that drips": lambda: iter([CHUNKED, *[b"0", 0.05] * 10_000]),
    "trailers without an end": lambda: iter([CHUNKED + b"0\r\n", *[b"a: b\r\n" * 500] * 10**6]),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_an_end_is_given_up(kind: str) -> None:
    with RawServer(script=ENDLESS[kind]) as server:
        transport = PoolTransport(server.url, SETTINGS)
        start = time.monotonic()
        with pytest.raises(ConnectionFailedError, match=r"no whole answer in 0\.4 seconds"):
            transport.send("GET", "/", None, "", 0.4)
        assert 0.3 < time.monotonic() - start < SOON
        transport.close()


def test_a_refusal_before_all_was_sent_is_read() -> None:
    """As of a server that wants no such upload, and says so without reading it."""
    refusal = b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much"

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(refusal)
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            connection.shutdown(socket.SHUT_RD)
            time.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse, args=(server,), daemon=True).start()
        transport = PoolTransport(f"http://127.0.0.1:{server.getsockname()[1]}", SETTINGS)
        reply = transport.send("POST", "/", b"x" * (30 * 2**20), "application/zip", 5)
        assert (reply.status, reply.body) == (413, b"too much")


def test_headers_without_an_end_are_refused() -> None:
    with (
        RawServer(script=lambda: iter([HEAD, *[b"a: b\r\n" * 100] * 10**6])) as server,
        pytest.raises(ConnectionFailedError, match="more than 100 headers"),
    ):
        PoolTransport(server.url, SETTINGS).send("GET", "/", None, "", 5)


def test_an_answer_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "LARGEST_ANSWER", 10 * 2**20)
    for head in (HEAD + b"\r\n", HEAD + b"Content-Length: 99999999999999\r\n\r\n"):
        script = [head, *[b"x" * 2**20] * 100]
        with (
            RawServer(script=lambda script=script: iter(script)) as server,
            pytest.raises(ConnectionFailedError, match="larger than"),
        ):
            PoolTransport(server.url, SETTINGS).send("GET", "/", None, "", 30)


def test_redirects_are_not_followed_and_so_have_an_end() -> None:
    location = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    with RawServer(script=lambda: iter([location])) as server:
        assert PoolTransport(server.url, SETTINGS).send("GET", "/", None, "", 5).status == 302
        assert len(server.requests) == 1


def test_a_server_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SLOWEST_BYTES_PER_SECOND", 100 * 2**20)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        transport = PoolTransport(f"http://127.0.0.1:{deaf.getsockname()[1]}", SETTINGS)
        with pytest.raises(ConnectionFailedError, match="no whole answer"):
            transport.send("POST", "/", b"x" * (20 * 2**20), "application/zip", 0.3)


def test_a_host_that_does_not_connect_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue: further connections get no answer at all, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(place)
        time.sleep(0.1)
        start = time.monotonic()
        with pytest.raises(ConnectionFailedError, match=r"no whole answer in 0\.4 seconds"):
            PoolTransport(f"http://127.0.0.1:{place[1]}", SETTINGS).send("GET", "/", None, "", 0.4)
        assert time.monotonic() - start < SOON
        for one in waiting:
            one.close()


def test_a_handshake_that_does_not_come_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        transport = PoolTransport(f"https://127.0.0.1:{deaf.getsockname()[1]}", SETTINGS)
        with pytest.raises(ConnectionFailedError, match=r"no whole answer in 0\.4 seconds"):
            transport.send("GET", "/", None, "", 0.4)


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: woken.wait(30))
    start = time.monotonic()
    with pytest.raises(ConnectionFailedError, match=r"no whole answer in 0\.4 seconds"):
        PoolTransport("http://vespa.example", SETTINGS).send("GET", "/", None, "", 0.4)
    assert time.monotonic() - start < SOON
    woken.set()


def test_a_feed_that_is_left_waits_for_no_answer() -> None:
    """As after Ctrl-C; the answers would take 15 s more, and be tried again for minutes."""
    with RawServer(script=lambda: iter(SILENT)) as server:
        client = Client(server.url, PoolTransport(server.url, SETTINGS), SETTINGS)
        engine = VespaEngine(client, IndexInfo(dimension=8))
        documents = (replace(numbered_document(number), numbers={}) for number in range(3))
        outcomes = engine.feed(map(Upsert, documents))
        leaver = threading.Thread(target=interrupt_soon, args=(lambda: len(server.requests) == 3,))
        leaver.start()
        with pytest.raises(KeyboardInterrupt):
            list(outcomes)
        leaver.join()
        assert time.monotonic() - last_interrupt[0] < SOON
        assert not [one for one in threading.enumerate() if one.name.startswith("vespa-feed")]


def test_gets_that_are_left_wait_for_no_answer() -> None:
    with RawServer(script=lambda: iter(SILENT)) as server:
        client = Client(server.url, PoolTransport(server.url, SETTINGS), SETTINGS)
        leaver = threading.Thread(target=interrupt_soon, args=(lambda: len(server.requests) > 3,))
        leaver.start()
        with pytest.raises(KeyboardInterrupt):
            VespaEngine(client, IndexInfo(dimension=8)).get([str(number) for number in range(20)])
        leaver.join()
        assert time.monotonic() - last_interrupt[0] < SOON
        assert not [one for one in threading.enumerate() if one.name.startswith("vespa-get")]


last_interrupt = [0.0]


def interrupt_soon(ready: Callable[[], bool]) -> None:
    """Send Ctrl-C to this process when `ready`."""
    deadline = time.monotonic() + 20
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    last_interrupt[0] = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_once_ends_a_feed_that_waits(tmp_path: Path) -> None:
    (tmp_path / "photos.jsonl").write_text(
        "".join(
            json.dumps({"image": f"{n}.jpg", "caption": "a dog", "embedding": [1.0] * 8}) + "\n"
            for n in range(100)
        )
    )

    def hang(request: Request) -> None:
        if "/images/image/" in request.path and request.method == "POST":
            time.sleep(3600)

    with StubVespa(dimension=8) as vespa:
        write_info(connect(vespa.url), IndexInfo(dimension=8))
        vespa.choose_fault = hang
        arguments = ["feed", "photos.jsonl", "--index", vespa.url]
        process = subprocess.Popen(
            [*CLIPSEARCH, *arguments],
            env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not vespa.writes() and process.poll() is None:
            time.sleep(0.02)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - start < SOON
        assert process.returncode == 130 and "Traceback" not in errors, errors
        assert "0 documents are kept" in errors


COMMANDS = {
    "status": ["status", "--index"],
    "query": ["query", "a dog", "--index"],
    "get": ["get", "a.jpg", "b.jpg", "--index"],
    "deploy": ["deploy", "--dimension", "8", "--yes", "--config-server"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["silence", "headers that drip", "100 Continue, slowly"])
def test_ctrl_c_once_ends_a_command_that_waits(command: str, kind: str) -> None:
    with RawServer(script=ENDLESS[kind]) as server:
        process = subprocess.Popen(
            [*CLIPSEARCH, *COMMANDS[command], server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not server.requests and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - start < SOON
        assert process.returncode == 130 and "Traceback" not in errors, errors
