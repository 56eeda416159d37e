"""What is too large, too many, too slow or too late is refused, and nothing grows."""

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from PIL import Image
from png_heads import png_head
from running_service import RunningService, image_at
from uvicorn.server import ServerState

from clipsearch.server.batching import TextBatcher
from clipsearch.server.connections import protocol_of
from clipsearch.server.metrics import Metrics
from clipsearch.server.problems import OverloadedError
from clipsearch.server.settings import ServerLimits, ServerSettings

SMALL = ServerLimits(
    body_bytes=50_000,
    upload_pixels=10_000,
    uploads=2,
    hits=20,
    depth=60,
    requests=4,
    threads=4,
    head_seconds=2.0,
    body_seconds=0.8,
    stalled_seconds=0.6,
)


@pytest.fixture(scope="module")
def small(local_index: str, cache: Path):
    with RunningService(ServerSettings(local_index, cache, limits=SMALL)) as running:
        yield running


def sent(running: RunningService, question: Any, **files: bytes) -> Any:
    data = {"question": json.dumps(question)}
    return running.post("/v1/search", data=data, files=files or {"none": b""})


def part(name: str) -> dict[str, Any]:
    return {"kind": "image", "value": name}


@pytest.mark.parametrize(
    ("status", "sentence", "ask"),
    [
        (400, "at most 20 hits a page", lambda s: s.get("/v1/search?text=a&k=21")),
        (400, "no further than 60", lambda s: s.get("/v1/search?text=a&k=20&page=4")),
        (422, "k", lambda s: s.get("/v1/search?text=a&k=1001")),
        (422, "no txt; did you mean text?", lambda s: s.get("/v1/search?txt=a")),
        (422, "no q; did you mean text?", lambda s: s.get("/v1/search?q=a")),
        (422, "no colour; known are", lambda s: s.get("/v1/images?colour=red")),
        (422, "no txt; did you mean text?", lambda s: s.post("/v1/search", json={"txt": "a"})),
        (422, "page", lambda s: s.get("/v1/search?text=a&page=0")),
        (422, "text", lambda s: s.get("/v1/search", params={"text": "a" * 2001})),
        (422, "filter", lambda s: s.get("/v1/search?text=a" + "&filter=class=a" * 65)),
        (422, "mode", lambda s: s.get("/v1/search?text=a&mode=best")),
        (422, "unknown", lambda s: s.get("/v1/search?text=a&unknown=1")),
        (422, "parts", lambda s: s.post("/v1/search", json={"parts": [part("a")] * 33})),
        (422, "no JSON", lambda s: s.post("/v1/search", data="{", headers=JSON)),
        (422, "no JSON", lambda s: s.post("/v1/search", data="[" * 40_000, headers=JSON)),
        (422, "weight", lambda s: s.post("/v1/search", data='{"bm25_weight":NaN}', headers=JSON)),
        (415, "send application/json", lambda s: s.post("/v1/search", data="text=a")),
        (400, "no file came", lambda s: s.post("/v1/search", json={"parts": [part("a")]})),
        (413, "more than 50,000 bytes", lambda s: sent(s, {}, image=b"0" * 60_000)),
        (422, "10,100 pixels, more than 10,000", lambda s: sent(s, {}, image=png_head(101, 100))),
        (422, "more than 178,956,970", lambda s: sent(s, {}, image=png_head(100_000, 100_000))),
        (422, "is damaged", lambda s: sent(s, {}, image=png_head(90, 90))),
        (400, "Too many files", lambda s: sent(s, {}, a=b"1", b=b"2", c=b"3")),
        (400, "outside", lambda s: sent(s, {"parts": [part("a") | {"crop": BOX}]}, a=png(9, 9))),
        (404, "no document", lambda s: s.get("/v1/similar/nothing")),
        (404, "nothing is at this address", lambda s: s.get("/v2/search")),
        (405, "", lambda s: s.ask("PATCH", "/v1/search")),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_a_problem(
    small: RunningService, status: int, sentence: str, ask: Callable[[RunningService], Any]
) -> None:
    found = ask(small)
    assert found.status_code == status, found.text
    assert found.headers["Content-Type"] == "application/problem+json"
    told = found.json()
    assert told["status"] == status and sentence in told["detail"]
    assert set(told) >= {"type", "title", "status", "detail"}


JSON = {"Content-Type": "application/json"}
BOX = {"x": 5, "y": 5, "width": 5, "height": 5}


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_body_without_a_length_is_counted_too(small: RunningService) -> None:
    def chunks():
        for _ in range(100):
            yield b" " * 1000

    try:
        found = small.post("/v1/search", data=chunks(), headers=JSON)
    except requests.RequestException:
        pass  # closed while it was still sending, before it could read the answer
    else:
        assert (found.status_code, "50,000" in found.text) == (413, True)


def test_what_there_is_no_room_for_is_refused(
    small: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    engine = small.service.search.engine
    asked = engine.search

    def slow(query):
        assert go_on.wait(20)
        return asked(query)

    monkeypatch.setattr(engine, "search", slow)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(small.get, "/v1/search?text=a&mode=bm25") for _ in range(4)]
        while small.get("/metrics").text.count("requests_under_way 4.0") == 0:
            time.sleep(0.02)
        refused = small.get("/v1/search?text=a&mode=bm25")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert small.get("/healthz").status_code == 200
        go_on.set()
        assert [each.result().status_code for each in waiting] == [200] * 4
    assert small.get("/v1/search?text=a").status_code == 200
    assert "clipsearch_refused_total 1.0" in small.get("/metrics").text


def raw(running: RunningService) -> socket.socket:
    host, _, port = running.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_to_end(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def test_a_head_that_does_not_come_is_cut_off(small: RunningService) -> None:
    for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"):
        with closing(raw(small)) as connection:
            connection.sendall(first)
            began = time.monotonic()
            try:
                for letter in b"GET /healthz HTTP/1.1" * 10:
                    connection.sendall(bytes([letter]))
                    time.sleep(0.05)
            except (BrokenPipeError, ConnectionResetError):
                pass
            else:
                pytest.fail("it waits for ever")
            assert time.monotonic() - began < 12


ONE = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
IN_PIECES = (
    b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
)


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("before", [ONE, ONE + b"\r\n" + ONE, IN_PIECES])
def test_a_head_that_is_too_long_is_refused(
    small: RunningService, before: bytes, lines: bool
) -> None:
    with closing(raw(small)) as connection:
        connection.sendall(before + b"X: ")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(2000):
                connection.sendall(b"a" * 1000 + (b"\r\nX: " if lines else b""))
                sent += 1000
                time.sleep(0.001)
        assert sent < 1_500_000, "all of it was kept"
    assert small.get("/healthz").status_code == 200


def test_the_second_head_is_limited_while_the_first_is_answered() -> None:
    protocol = protocol_of(ServerLimits(head_bytes=1000))
    config = uvicorn.Config(lambda *_: None, http=protocol)
    config.load()

    async def feed() -> bool:
        made = protocol(config=config, server_state=ServerState(), app_state={})
        transport = FakeTransport()
        made.connection_made(transport)
        made.data_received(ONE + b"\r\n")
        made.data_received(ONE)
        made.data_received(b"X: " + b"a" * 900)
        assert not transport.aborted
        made.data_received(b"a" * 200)
        made.connection_lost(None)
        return transport.aborted

    assert asyncio.run(feed())


class FakeTransport(asyncio.Transport):
    """Tells whether it was cut off."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        """See `asyncio.Transport`."""

    def write(self, data: object) -> None:
        """See `asyncio.Transport`."""


def test_a_refused_body_that_still_comes_is_no_head(small: RunningService) -> None:
    with closing(raw(small)) as connection:
        connection.sendall(b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"0" * 300_000)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = read_to_end(connection)
    assert b"HTTP/1.1 400" not in answer


def test_a_body_that_does_not_come_is_answered_408(small: RunningService) -> None:
    with closing(raw(small)) as connection:
        connection.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"text":'
        )
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not come within 0.8 seconds" in answer


def test_who_takes_no_answer_is_cut_off(
    small: RunningService, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.images.source import ImageSource

    monkeypatch.setattr(ImageSource, "read", lambda self: b"0" * 30_000_000)
    with closing(raw(small)) as connection:
        connection.sendall(
            f"GET {image_at('star.png', 'file')} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
        time.sleep(2.5)
        assert len(read_to_end(connection)) < 30_000_000
    assert small.get("/healthz").status_code == 200


def test_what_is_no_http_is_refused(small: RunningService) -> None:
    with closing(raw(small)) as connection:
        connection.sendall(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")


def batcher(encode, most: int = 10) -> TextBatcher:
    """All texts of a batch at once, as `encode` gives them."""
    return TextBatcher(lambda texts: iter([(range(len(texts)), encode(texts))]), Metrics(), most)


def test_texts_of_many_are_encoded_together() -> None:
    batches: list[list[str]] = []
    begun, go_on = threading.Event(), threading.Event()

    def encode(texts):
        batches.append(list(texts))
        begun.set()
        assert go_on.wait(10)
        return np.array([[len(text), 1] for text in texts], np.float32)

    joined = batcher(encode)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(joined.embed, ["one"])
        assert begun.wait(10)
        others = [pool.submit(joined.embed, ["a" * (1 + n % 4)]) for n in range(7)]
        while len(joined._waiting) < 4:
            time.sleep(0.01)
        go_on.set()
        assert first.result().tolist() == [[3, 1]]
        assert [each.result()[0, 0] for each in others] == [1, 2, 3, 4, 1, 2, 3]
    assert batches[0] == ["one"]
    assert sorted(batches[1]) == ["a", "aa", "aaa", "aaaa"], "equal texts are encoded once"


def test_the_first_of_a_batch_do_not_wait_for_the_last() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def encode(texts):
        if texts == ["first"]:
            begun.set()
            assert go_on.wait(10)
        yield [len(texts) - 1], np.full((1, 2), len(texts), np.float32)
        if len(texts) > 1:
            assert others[1].result(10).tolist() == [[2, 2]], "it has its own while this one waits"
            raise ValueError("no such text")

    joined = TextBatcher(encode, Metrics(), 10)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(joined.embed, ["first"])
        assert begun.wait(10)
        others = []
        for text in ("second", "third"):
            others.append(pool.submit(joined.embed, [text]))
            while text not in joined._waiting:
                time.sleep(0.01)
        go_on.set()
        assert first.result(10).tolist() == [[1, 1]]
        with pytest.raises(ValueError, match="no such text"):
            others[0].result(10)


def test_an_encoder_that_fails_fails_those_that_asked_and_no_other() -> None:
    def encode(texts):
        if "bad" in texts:
            raise ValueError("no such text")
        return np.ones((len(texts), 2), np.float32)

    joined = batcher(encode)
    with pytest.raises(ValueError, match="no such text"):
        joined.embed(["bad"])
    assert joined.embed(["good"]).tolist() == [[1, 1]]


def test_texts_that_wait_are_bounded() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def encode(texts):
        begun.set()
        assert go_on.wait(10)
        return np.ones((len(texts), 2), np.float32)

    joined = batcher(encode, most=2)
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(joined.embed, ["first"])]
        assert begun.wait(10)
        held += [pool.submit(joined.embed, [text]) for text in ("second", "third")]
        while len(joined._waiting) < 2:
            time.sleep(0.01)
        with pytest.raises(OverloadedError, match="ask again later"):
            joined.embed(["fourth"])
        go_on.set()
        assert all(each.result().shape == (1, 2) for each in held)
