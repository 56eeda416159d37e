"""A small Vespa over HTTP for tests: documents in memory, and searches ranked by brute force.

It answers the requests that clipsearch sends in the way that a real Vespa was recorded to answer
them (tests/recorded); `test_vespa_parity.py` holds it against the recorded rankings. `faults` says
what happens to the next requests instead.
"""

import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from vespa_twin import answer_search

from clipsearch.documents import Document
from clipsearch.engines.vespa.queries import LATER_FIELDS

VISIT_PAGE = 7  # few, so that every visit needs continuations
CONDITION_FAILED = (
    "[UNKNOWN(251013) @ tcp/localhost:19115/default]: ReturnCode(TEST_AND_SET_CONDITION_FAILED,"
    " Condition did not match document nodeIndex=0 bucket=2000000000000064) "
)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


# A fault is "503", "429" … (that status), "reset" (closed before anything was done), "lost" (done,
# and closed before the answer), "half" (half of the answer), "slow" (a byte at a time), "not-json".
Fault = str | None


@dataclass
class StubVespa:
    """A context manager; `url` is its address."""

    language: str = "en"
    dimension: int = 64
    precision: str = "float"
    delay: float = 0.0
    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    choose_fault: Callable[[Request], Fault] | None = None
    token: str | None = None
    # Of the schema that is deployed: False is the first release's, without fields for filters.
    filter_fields: bool = True
    # Of its candidates that an approximate search finds.
    found_share: float = 1.0
    # What an answer says of how much was searched, where that is not all.
    coverage: dict[str, Any] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0

    def __enter__(self) -> Self:
        stub = self
        self.lock = threading.Lock()

        class Handler(_Handler):
            vespa = stub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def images(self) -> dict[str, dict[str, Any]]:
        """The pictures that are held, by id."""
        return {id_: doc for (kind, id_), doc in self.documents.items() if kind == "image"}

    def redeployed(self, package: dict[str, bytes]) -> None:
        """Take up the schema of a package, as `change_field` does where the embedding's changed."""
        schema = package["schemas/image.sd"]
        found = re.search(rb"field embedding type tensor<(\w+)>\(x\[(\d+)\]\)", schema)
        assert found is not None
        precision, dimension = found.group(1).decode(), int(found.group(2))
        self.filter_fields = all(f"field {name} ".encode() in schema for name in LATER_FIELDS)
        if (precision, dimension) != (self.precision, self.dimension):
            self.change_field(dimension, precision)

    def change_field(self, dimension: int, precision: str = "float") -> None:
        """What a deployment does that changes the embedding's dimension or precision."""
        with self.lock:
            self.dimension, self.precision = dimension, precision
            for document in self.images().values():
                document.pop("embedding", None)

    def writes(self) -> list[Request]:
        """The requests that change pictures, in the order in which they came."""
        return [
            request
            for request in self.requests
            if request.method in ("POST", "PUT", "DELETE") and "/images/image/" in request.path
        ]

    def answer(self, request: Request) -> tuple[int, Any]:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"message": "Access denied"}
        if request.path == "/state/v1/health":
            return 200, {"status": {"code": "up"}}
        if request.path == "/search/":
            body = request.body or request.query
            for name in () if self.filter_fields else LATER_FIELDS:
                if name in body["yql"]:
                    return _no_such_field(name)
            with self.lock:
                images = list(self.images().values())
            status, answer = answer_search(images, body, self.language, self.found_share)
            if status == 200:
                answer["root"]["coverage"].update(self.coverage)
            return status, answer
        found = re.fullmatch(
            r"/document/v1/images/(image|index_info)/docid(?:/(.*))?", request.path
        )
        if found is None:
            return 404, "<html><title>Error 404 No binding for URI</title></html>"
        kind, id_ = found.group(1), found.group(2)
        with self.lock:
            if id_ is None:
                return self._visit(kind, request)
            return self._document(kind, unquote(id_), request)

    def _visit(self, kind: str, request: Request) -> tuple[int, Any]:
        ids = sorted(id_ for known, id_ in self.documents if known == kind)
        start = int(request.query.get("continuation", "0"))
        page = [
            {"id": f"id:images:{kind}::{id_}", "fields": self._fields(kind, id_, request)}
            for id_ in ids[start : start + VISIT_PAGE]
        ]
        answer = {"pathId": request.path, "documents": page, "documentCount": len(page)}
        if start + VISIT_PAGE < len(ids):
            answer["continuation"] = str(start + VISIT_PAGE)
        return 200, answer

    def _document(self, kind: str, id_: str, request: Request) -> tuple[int, Any]:
        answer = {"pathId": request.path, "id": f"id:images:{kind}::{id_}"}
        held = self.documents.get((kind, id_))
        if request.method == "GET":
            if held is None:
                return 404, answer
            return 200, {**answer, "fields": self._fields(kind, id_, request)}
        if request.method == "DELETE":
            self.documents.pop((kind, id_), None)
            return 200, answer
        fields = request.body["fields"]
        illegal = _illegal(id_, fields)
        if illegal is not None:
            return 400, {"pathId": request.path, "message": illegal}
        for name in () if self.filter_fields else LATER_FIELDS:
            if name in fields:
                message = f"Field '{name}' is not defined in document type '{kind}'"
                return 400, {"pathId": request.path, "message": message}
        if request.method == "PUT":
            if held is None and request.query.get("create") == "true":
                # The condition is not looked at.
                held = self.documents[kind, id_] = {}
            elif (condition := request.query.get("condition")) is not None and (
                held is None or not _holds(condition, kind, held)
            ):
                return 412, {**answer, "message": CONDITION_FAILED}
            if held is not None:
                for name, change in fields.items():
                    held[name] = change["assign"]
            return 200, answer
        if kind == "image":
            values = _vector(fields["embedding"]["values"], self.precision)
            tensor = f"tensor<{self.precision}>(x[{self.dimension}])"
            if len(values) != self.dimension:
                message = (
                    f"In document 'id:images:image::{id_}': Could not parse field 'embedding' of"
                    f" type {tensor}: Expected {self.dimension} values, but got {len(values)}"
                )
                return 400, {"pathId": request.path, "message": message}
            if "condition" in request.query and held is None:
                return 412, {**answer, "message": CONDITION_FAILED}
            kind_of = {"type": tensor, "values": values}
            fields = {**fields, "embedding": kind_of}
        self.documents[kind, id_] = fields
        return 200, answer

    def _fields(self, kind: str, id_: str, request: Request) -> dict[str, Any]:
        held = self.documents[kind, id_]
        wanted = request.query.get("fieldSet", "").partition(":")[2]
        names = wanted.split(",") if wanted else list(held)
        # Vespa leaves out fields that are empty.
        return {name: held[name] for name in names if held.get(name)}


def numbered_document(number: int, caption: str = "a red circle") -> Document:
    """A document of 8 values, the same for the same number."""
    vector = np.random.default_rng(number).standard_normal(8).astype(np.float32)
    return Document(
        f"p/{number}.jpg",
        (caption,),
        f"p/{number}.jpg",
        tags={"class": f"c{number % 3}"},
        numbers={"year": 2000.0 + number},
        embedding=vector / np.linalg.norm(vector),
    )


def _illegal(id_: str, fields: dict[str, Any]) -> str | None:
    """What a real Vespa says of text that it does not take; None where it takes all."""
    for name, value in {"id": id_, **fields}.items():
        for character in _texts(value):
            code = ord(character)
            control = code < 0x20 and character not in "\t\n\r"
            none = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
            if control or none or 0xD800 <= code <= 0xDFFF:
                return (
                    f"In document 'id:images:image::{id_}': Could not parse field '{name}': The"
                    f" string field value contains illegal code point 0x{code:X}"
                )
    return None


def _texts(value: Any) -> str:
    """All text in a field of a put or an update, names of map entries included."""
    if isinstance(value, dict):
        return "".join(_texts(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return value if isinstance(value, str) else ""


def _holds(condition: str, kind: str, held: dict[str, Any]) -> bool:
    """A comparison of a text field: all that clipsearch sends."""
    found = re.fullmatch(rf'{kind}\.(\w+) == "((?:[^"\\]|\\["\\])*)"', condition)
    assert found is not None, condition
    return bool(held.get(found.group(1)) == re.sub(r"\\(.)", r"\1", found.group(2)))


def _no_such_field(name: str) -> tuple[int, Any]:
    error = {
        "code": 4,
        "summary": "Invalid query parameter",
        "message": f"Could not create query from YQL: Field '{name}' does not exist.",
    }
    return 400, {"root": {"id": "toplevel", "fields": {"totalCount": 0}, "errors": [error]}}


def _vector(values: str | list[float], precision: str) -> list[float]:
    """A list, or big-endian hex in the precision of the field."""
    if not isinstance(values, str):
        return values
    half = precision == "bfloat16"
    parts = [values[place : place + 4] + "0000" for place in range(0, len(values), 4)]
    whole = bytes.fromhex("".join(parts) if half else values)
    return np.frombuffer(whole, ">f4").astype(float).tolist()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that we or the client broke on purpose are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vespa: StubVespa
    # Headers and body leave in one packet.
    wbufsize = -1

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""

    def _serve(self) -> None:
        vespa = self.vespa
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        request = Request(
            self.command,
            parts.path,
            query,
            json.loads(data) if data else None,
            {key.lower(): value for key, value in self.headers.items()},
        )
        with vespa.lock:
            vespa.requests.append(request)
            vespa.under_way += 1
            vespa.most_under_way = max(vespa.most_under_way, vespa.under_way)
            fault = vespa.faults.popleft() if vespa.faults else None
        try:
            if vespa.choose_fault is not None:
                fault = vespa.choose_fault(request) or fault
            if vespa.delay:
                time.sleep(vespa.delay)
            self._answer(request, fault)
        finally:
            with vespa.lock:
                vespa.under_way -= 1

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _answer(self, request: Request, fault: Fault) -> None:
        if fault == "reset":
            self._reset()
            return
        if fault is not None and fault.isdigit():
            self._send(int(fault), _failure(request, int(fault)))
            return
        status, content = self.vespa.answer(request)
        if fault == "lost":
            self._reset()
        elif fault == "not-json":
            self._send(200, "<html>a proxy says hello</html>")
        else:
            self._send(status, content, fault)

    def _send(self, status: int, content: Any, fault: Fault = None) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(content, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "half":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif fault == "slow":
            for place in range(len(data)):
                self.wfile.write(data[place : place + 1])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(data)
            self.wfile.flush()

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # closing sends a reset, not an orderly end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True


def _failure(request: Request, status: int) -> Any:
    """The body with which a real Vespa was recorded to answer."""
    if request.path == "/search/":
        error = {
            "code": 10,
            "summary": "Backend communication error",
            "source": "images",
            "message": "Connection failure on nodes with distribution-keys: 0",
        }
        coverage = {"coverage": 100, "documents": 0, "full": True, "nodes": 0}
        return {"root": {"fields": {"totalCount": 0}, "coverage": coverage, "errors": [error]}}
    sentences = {
        507: "ReturnCode(NO_SPACE, External feed is blocked due to resource exhaustion: in content"
        " cluster 'images': disk on node 0 [localhost] is 71.6% full (the configured limit is"
        " 2.0%). See https://docs.vespa.ai/en/writing/feed-block.html) ",
        504: "ReturnCode(TIMEOUT, A timeout occurred while waiting for"
        " 'storage/cluster.images/storage/0' (9.895 seconds expired); (RPC) Invocation timed out) ",
    }
    sentence = sentences.get(status, "ReturnCode(BUSY, too much to do) ")
    return {"pathId": request.path, "message": f"[UNKNOWN @ tcp/localhost:19115]: {sentence}"}
