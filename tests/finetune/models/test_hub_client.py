"""The hub, where its answers do not end; real sockets."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH
from huggingface_hub import constants, errors, get_session
from huggingface_hub.utils import _http as hub_http
from raw_server import RawServer, Step, for_ever, http_answer

from finetune.models import hub_client
from finetune.models.hub_client import DeadlineClient, prepare_hub

HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = HEAD + b"Content-Length: 9999\r\n\r\n"
AGAIN = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
# Takes a fraction of a second; on a busy machine more, but never what is waited for.
SOON = 8.0


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadlineClient]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_client, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(hub_client, "PACE_SECONDS", 0.5)
    made = hub_client._make_client()
    yield made
    made.close()


ENDLESS: dict[str, Callable[[], Iterator[Step]]] = {
    "silence": lambda: iter([3600.0]),
    "headers that drip": lambda: iter([HEAD, *[b"x", 0.05] * 10_000]),
    "100 Continue": lambda: for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "a body that drips": lambda: iter([LONG, *[b"x", 0.05] * 999]),
    "chunks without an end": lambda: iter([CHUNKED, *[b"1\r\nx\r\n", 0.01] * 10_000]),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_an_end_is_given_up(client: DeadlineClient, kind: str) -> None:
    with RawServer(script=ENDLESS[kind]) as server:
        start = time.monotonic()
        with pytest.raises(errors.HTTPError, match=r"no whole answer in 0\.5 seconds|timed out"):
            client.get(server.url)
        assert time.monotonic() - start < SOON


@pytest.mark.parametrize("kind", ["a body that drips", "chunks without an end"])
def test_a_file_that_crawls_is_given_up(client: DeadlineClient, kind: str) -> None:
    with (
        RawServer(script=ENDLESS[kind]) as server,
        client.stream("GET", server.url) as answer,
        pytest.raises(errors.HTTPError, match="bytes came in"),
    ):
        for _ in answer.iter_bytes():
            pass


def test_a_file_that_takes_longer_than_an_answer_may_is_read_whole(client: DeadlineClient) -> None:
    parts: list[Step] = [HEAD + b"Content-Length: 2000000\r\n\r\n", *[b"x" * 200_000, 0.1] * 10]
    with (
        RawServer(script=lambda: iter(parts)) as server,
        client.stream("GET", server.url) as answer,
    ):
        assert sum(map(len, answer.iter_bytes())) == 2_000_000


def test_an_answer_that_would_fill_the_memory_is_refused(
    client: DeadlineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "ANSWER_SECONDS", 30.0)
    monkeypatch.setattr(hub_client, "LARGEST_ANSWER", 2**20)
    with (
        RawServer(script=lambda: iter([HEAD + b"\r\n", *[b"x" * 2**20] * 100])) as server,
        pytest.raises(errors.HTTPError, match="larger than 1 MiB"),
    ):
        client.get(server.url)


def test_redirects_without_an_end_are_given_up(client: DeadlineClient) -> None:
    with (
        RawServer(answer=lambda request: AGAIN) as server,
        pytest.raises(errors.HTTPError, match=r"redirects|no whole answer"),
    ):
        client.get(server.url)


def test_an_answer_is_read_and_an_upload_has_time_for_its_size(client: DeadlineClient) -> None:
    with RawServer(answer=lambda request: http_answer('{"a": 1}')) as server:
        assert client.get(server.url).json() == {"a": 1}
        assert client.post(server.url, content=b"x" * 1_000_000).status_code == 200
        assert len(server.requests[-1]) > 1_000_000
        with client.stream("GET", server.url) as answer:
            assert answer.read() == b'{"a": 1}'


def test_the_hubs_library_asks_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hub_http._GLOBAL_CLIENT_FACTORY
    try:
        hub_http.set_client_factory(hub_http.default_client_factory)
        prepare_hub()
        assert isinstance(get_session(), DeadlineClient)

        def own() -> object:
            return hub_http.default_client_factory()

        hub_http.set_client_factory(own)
        prepare_hub()
        assert hub_http._GLOBAL_CLIENT_FACTORY is own, "the user's own stays"
    finally:
        hub_http.set_client_factory(before)


def test_ctrl_c_once_ends_what_waits_for_the_hub(tmp_path: Path) -> None:
    with RawServer(script=ENDLESS["headers that drip"]) as server:
        process = subprocess.Popen(
            [*CLIPSEARCH, "export", "somebody/model", "--out", "out"],
            env=os.environ
            | {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "XDG_CACHE_HOME": str(tmp_path)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not server.requests and process.poll() is None:
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - start < SOON
        assert process.returncode == 130 and "Traceback" not in said
