"""An acknowledgement names the document and is whole: all else is tried again, then an error."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from raw_server import RawServer, http_answer
from vespa_stub import numbered_document

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http import connection
from clipsearch.engines.vespa.http.connection import (
    Body,
    Client,
    ConnectionSettings,
    PoolTransport,
    Reply,
)
from clipsearch.engines.vespa.index_info import read_info, write_info
from clipsearch.engines.vespa.writer import FeedStoppedError
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert
from finetune.errors import EngineError

INFO = IndexInfo(dimension=8)
SETTINGS = ConnectionSettings(connections=1, timeout=5, search_patience=0.3, feed_patience=0.3)
NAME = "id:images:image::p/1.jpg"
NAMED = json.dumps({"pathId": "/document/v1/images/image/docid/p%2F1.jpg", "id": NAME})
# Without numbers: for those the index is asked first where their column has its place.
DOCUMENT = replace(numbered_document(1), numbers={})
FOUND = json.dumps({"id": NAME, "fields": {"id": "p/1.jpg"}})


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(connection, "LONGEST_WAIT_SECONDS", 0.05)


def chunked(body: str, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n" % (len(body), body.encode()) + end


DOUBTED = {
    "an empty object": http_answer("{}"),
    "another document": http_answer(NAMED.replace("p/1", "p/2")),
    "an id alone": http_answer(json.dumps({"id": "p/1.jpg"})),
    "another type of document": http_answer(NAMED.replace(":image::", ":index_info::")),
    "an id that is no text": http_answer(json.dumps({"id": [NAME]})),
    "a list": http_answer(json.dumps([NAME])),
    "no body": http_answer(""),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + NAMED.encode(),
    "a length that is no number": http_answer(NAMED, length="all"),
    "a negative length": http_answer(NAMED, length="-1"),
    "a length too small": http_answer(NAMED, length=str(len(NAMED) - 1)),
    "a length too large": http_answer(NAMED, length=str(len(NAMED) + 1)),
    "chunks without an end": chunked(NAMED, b""),
}
GOOD = {"with a length": http_answer(NAMED), "in chunks": chunked(NAMED)}
OPERATIONS: dict[str, Callable[[], Operation]] = {
    "put": lambda: Upsert(DOCUMENT),
    "update": lambda: Update("p/1.jpg", captions=("new",)),
    "delete": lambda: Delete("p/1.jpg"),
}


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as raw:
        yield raw


def fed(server: RawServer, operation: Operation) -> list[Outcome]:
    client = Client(server.url, PoolTransport(server.url, SETTINGS), SETTINGS)
    try:
        return list(VespaEngine(client, INFO).feed([operation]))
    finally:
        client.close()


def writes(server: RawServer) -> int:
    return sum(not request.startswith(b"GET") for request in server.requests)


@pytest.mark.parametrize("good", GOOD)
@pytest.mark.parametrize("kind", OPERATIONS)
def test_what_is_acknowledged_is_done(server: RawServer, kind: str, good: str) -> None:
    server.answer = lambda request: http_answer(FOUND) if b"GET" in request[:3] else GOOD[good]
    (outcome,) = fed(server, OPERATIONS[kind]())
    assert outcome.error is None and writes(server) == 1


@pytest.mark.parametrize("doubt", DOUBTED)
@pytest.mark.parametrize("kind", OPERATIONS)
def test_what_is_not_is_tried_again(server: RawServer, kind: str, doubt: str) -> None:
    def answer(request: bytes) -> bytes:
        if request.startswith(b"GET"):
            return http_answer(FOUND)
        return DOUBTED[doubt] if writes(server) < 3 else http_answer(NAMED)

    server.answer = answer
    (outcome,) = fed(server, OPERATIONS[kind]())
    assert outcome.error is None and writes(server) == 3


@pytest.mark.parametrize("doubt", DOUBTED)
def test_and_is_an_error_in_the_end(server: RawServer, doubt: str) -> None:
    server.answer = lambda request: DOUBTED[doubt]
    with pytest.raises(FeedStoppedError, match=r"tried for 0\.3 seconds") as caught:
        fed(server, Upsert(DOCUMENT))
    assert "\n" not in str(caught.value) and writes(server) > 1


@pytest.mark.parametrize("status", [200, 404])
def test_a_look_before_an_update_believes_only_what_names_the_document(
    server: RawServer, status: int
) -> None:
    other = FOUND.replace("p/1", "p/2").replace("{", '{"pathId": "x", ', 1)
    server.answer = lambda request: http_answer(other, status=status)
    with pytest.raises(FeedStoppedError, match="does not name the document"):
        fed(server, OPERATIONS["update"]())
    assert writes(server) == 0


class Mock:
    """A transport that always answers the same."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        return self.reply

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"{}"),
        Reply(200, FOUND.replace("p/1", "p/2").encode()),
        Reply(404, b'{"pathId": "x", "id": "id:images:image::other"}'),
    ],
    ids=["empty", "another", "another that is missing"],
)
def test_an_answer_about_another_document_is_none(reply: Reply) -> None:
    client = Client("http://vespa.example", Mock(reply), SETTINGS)
    for ask in (
        lambda: VespaEngine(client, INFO).get(["p/1.jpg"]),
        lambda: VespaEngine(client, INFO).get(["p/1.jpg", "p/3.jpg"]),
        lambda: read_info(client),
    ):
        with pytest.raises(EngineError, match="does not name the document"):
            ask()


def test_what_the_index_knows_is_written_only_where_vespa_says_so() -> None:
    client = Client("http://vespa.example", Mock(Reply(200, b"{}")), SETTINGS)
    with pytest.raises(EngineError, match="does not name the document"):
        write_info(client, INFO)
