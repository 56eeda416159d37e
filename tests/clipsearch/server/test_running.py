"""A service as a program: it starts, follows feeds, and ends with its last answer."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests
from fed_indexes import fed_vespa
from running_service import RunningService
from served_photos import SIZES
from small_pictures import Manifest

from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.server.settings import ServerLimits, ServerSettings


@contextmanager
def program(index: str, cache: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`clipsearch serve` at a free port, and its address."""
    command = [sys.executable, "-m", "clipsearch", "serve", "--index", index, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cache", str(cache), *options], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        found = re.search(r"http://\S+?(?= \()", first)
        assert found, first + process.stderr.read()
        yield process, found.group()
    finally:
        process.kill()
        process.wait()


def test_no_part_of_an_answer_waits_for_the_one_before(served: RunningService) -> None:
    """Nagle's algorithm would keep a body back until the head is acknowledged, some 40 ms."""
    with requests.Session() as session:
        assert session.get(f"{served.url}/healthz", timeout=30).status_code == 200
        sockets = [
            connection.transport.get_extra_info("socket")
            for connection in served.server.server_state.connections
        ]
        assert sockets
        assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_it_ends_when_the_last_answer_is_given(
    number: int, code: int, local_index: str, cache: Path
) -> None:
    with program(local_index, cache) as (process, address):
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Only this machine can ask")
        assert requests.get(f"{address}/readyz", timeout=30).status_code in (200, 503)
        host, _, port = address.removeprefix("http://").partition(":")
        body = b'{"text": "dogs on a beach"}'
        with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
            connection.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            time.sleep(0.3)
            os.kill(process.pid, number)
            time.sleep(2.0)  # longer than the command line lets others live after a signal
            with pytest.raises(OSError):
                socket.create_connection((host, int(port)), timeout=5).close()
            connection.sendall(body)
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert b"beach/two dogs.png" in answer
        assert process.wait(30) == code


def ask_and_be_cut_off(address: str) -> None:
    with suppress(requests.RequestException):
        requests.get(address, timeout=60)


def hold_all(address: str, held: ExitStack) -> None:
    """Hold connections as clients may: idle, a request sent in part, answers that nobody takes."""
    host, _, port = address.removeprefix("http://").partition(":")
    whole = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    for sent in (
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{",
        whole,
        200 * whole,  # more than the system's buffers hold
    ):
        connection = held.enter_context(closing(socket.socket()))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((host, int(port)))
        connection.sendall(sent)


def test_it_ends_in_time_whatever_its_clients_hold(local_index: str, tmp_path: Path) -> None:
    limits = ServerLimits(drain_seconds=1.0)
    with (
        RunningService(ServerSettings(local_index, tmp_path, limits=limits)) as running,
        ExitStack() as held,
    ):
        hold_all(running.url, held)
        time.sleep(0.5)
        assert len(running.server.server_state.connections) == 5
        start = time.monotonic()
        running.server.should_exit = True
        assert running.has_ended(30)
        assert time.monotonic() - start < 10


@pytest.mark.slow
def test_a_program_ends_in_time_whatever_its_clients_and_its_vespa_hold(
    photos: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    drain = ServerLimits().drain_seconds
    with (
        fed_vespa(photos / "photos.csv", encoder_folder, tmp_path) as stub,
        program(stub.url, tmp_path / "cache") as (process, address),
        ExitStack() as held,
    ):
        hold_all(address, held)
        stub.delay = 60.0
        asked = f"{address}/v1/search?text=dogs"
        threading.Thread(target=ask_and_be_cut_off, args=(asked,), daemon=True).start()
        time.sleep(1.0)
        start = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - start < drain + 5.0
        stub.delay = 0.0


def test_a_port_that_is_taken_is_named(local_index: str, cache: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        program = (
            "import sys; from clipsearch.cli import main\ntry: main()\nfinally: print(*sys.modules)"
        )
        words = ["serve", "--cache", str(cache), "--index", local_index, "--port", port]
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: port {port} of 127.0.0.1 is taken by another")
        assert not {"fastapi", "uvicorn", "onnxruntime"} & {*done.stdout.split()}, "said at once"


def test_a_feed_under_way_breaks_no_answer_and_shows_in_seconds(
    photos: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    index = str(tmp_path / "photos.index")
    feed(
        FeedOptions(manifest=photos / "photos.csv", index=index, encoder=encoder_folder, workers=0)
    )
    more = Manifest(tmp_path / "more", {f"new{number}.png": number for number in range(40)})
    failures: list[str] = []
    totals: list[int] = []
    done = threading.Event()
    with RunningService(ServerSettings(index, tmp_path / "cache")) as running:

        def ask() -> None:
            with requests.Session() as session:
                while not done.is_set():
                    found = session.get(f"{running.url}/v1/search?text=a+new+dog&k=50", timeout=30)
                    if found.status_code != 200:
                        failures.append(found.text)
                    else:
                        totals.append(found.json()["total"])

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        assert more.feed(index, encoder_folder).fed == 40
        until = time.monotonic() + 10
        while running.get("/v1/images?k=1").json()["total"] < len(SIZES) + 40:
            assert time.monotonic() < until
            time.sleep(0.1)
        done.set()
        for thread in asking:
            thread.join()
        # Known at once are documents; in seconds, what the feed has told of the index.
        while "m" not in running.get("/v1/index").json()["data_sets"]:
            assert time.monotonic() < until + 10
            time.sleep(0.1)
        assert running.get("/v1/images/new3.png").json()["data_set"] == "m"
    assert not failures and totals
