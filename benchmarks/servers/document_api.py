"""A stub of Vespa's /document/v1 that acknowledges, delays and fails: for feed benchmarks only.

    python benchmarks/servers/document_api.py --delay 5,50 --slots 64

Prints its port. Speaks HTTP/1.1 and, on the same port, HTTP/2 without TLS (prior knowledge), which
is how `vespa feed` and pyvespa's async client talk to an http:// address. It never looks at what
it is sent, so that the client and not the stub is the slow side: HTTP/2 headers are not even
decoded, and every answer is one of a few that were made beforehand, worded as a real Vespa's. Over
HTTP/1.1 it also passes for an empty index of ready-made vectors, so that the command can feed it.
`GET /stats` (HTTP/1.1) gives the number of answers by status and the most that were under way, and
starts counting anew.
"""

import argparse
import asyncio
import gc
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from clipsearch.documents import DOCUMENT_FORM
from clipsearch.engines.vespa.index_info import FORMAT_VERSION

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x7, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
# HPACK: an indexed :status for 200, a literal that refers to the name :status for the others, and
# a literal content-type (static names 8 and 31). No dynamic table is used.
INDEXED_STATUS_200 = b"\x88"
CONTENT_TYPE = b"\x0f\x10\x10application/json"
WINDOW = 1 << 30

DIMENSION = 512
INFO = {
    "format_version": FORMAT_VERSION,
    "dimension": DIMENSION,
    "index_id": "benchmark",
    "document_form": DOCUMENT_FORM,
}
NAMED = {"id": "id:images:index_info::index"}
EMPTY_INDEX = {
    b"get /document/v1/images/index_info/": {**NAMED, "fields": {"content": json.dumps(INFO)}},
    b"post /document/v1/images/index_info/": NAMED,
    b"put /document/v1/images/index_info/": NAMED,
    b"get /document/v1/images/image/docid?": {"documents": [], "documentCount": 0},
    b"post /search/": {"root": {"fields": {"totalCount": 0}, "coverage": {"coverage": 100}}},
}
PATH = {"pathId": "/document/v1/images/image/docid/x"}
ANSWERS = {
    200: {**PATH, "id": "id:images:image::x"},
    429: {**PATH, "message": "Rejecting execution due to overload: 256 requests already enqueued"},
    503: {**PATH, "message": "[UNKNOWN @ tcp/localhost:19115]: ReturnCode(BUSY, too much to do) "},
}


def http1_answer(status: int, content: object) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def http2_answer(status: int) -> tuple[bytes, bytes]:
    """Header block and body."""
    literal = b"\x08\x03" + str(status).encode()
    block = INDEXED_STATUS_200 if status == 200 else literal
    return block + CONTENT_TYPE, json.dumps(ANSWERS[status]).encode()


HTTP1_ANSWERS = {status: http1_answer(status, content) for status, content in ANSWERS.items()}


def named_answer(status: int, document: str) -> bytes:
    """An HTTP/1.1 answer that names the document, as an acknowledgement must."""
    if status != 200:
        return HTTP1_ANSWERS[status]
    return http1_answer(200, {**PATH, "id": f"id:images:image::{document}"})


INDEX_ANSWERS = {start: http1_answer(200, content) for start, content in EMPTY_INDEX.items()}
HTTP2_ANSWERS = {status: http2_answer(status) for status in ANSWERS}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


@dataclass
class Gate:
    """Decides what becomes of a request: `slots` are worked on at once, `waiting` wait, the rest
    is answered 429; a share `failing` is answered 503.
    """

    delay: tuple[float, float] = (0.0, 0.0)
    slots: int = 64
    waiting: int = 256
    failing: float = 0.0
    seed: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0
    queue: deque[Callable[[int], None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def take(self, answer: Callable[[int], None]) -> None:
        """Call `answer` with a status, now or later."""
        if not self.delay[1]:
            self.answered[200] += 1
            answer(200)
        elif self.under_way < self.slots:
            self.start(answer)
        elif len(self.queue) < self.waiting:
            self.queue.append(answer)
        else:
            self.answered[429] += 1
            answer(429)

    def start(self, answer: Callable[[int], None]) -> None:
        """Work on a request for a while."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        seconds = self.dice.uniform(*self.delay)
        asyncio.get_running_loop().call_later(seconds, self.finish, answer)

    def finish(self, answer: Callable[[int], None]) -> None:
        """Answer a request, and begin the next that waits."""
        self.under_way -= 1
        if self.queue:
            self.start(self.queue.popleft())
        status = 503 if self.failing and self.dice.random() < self.failing else 200
        self.answered[status] += 1
        answer(status)

    def stats(self) -> bytes:
        """What was answered since last asked, as an HTTP/1.1 answer."""
        found = {"answered": dict(self.answered), "most_under_way": self.most_under_way}
        self.answered, self.most_under_way = Counter(), 0
        body = json.dumps(found).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """One connection; its first bytes tell which HTTP it speaks."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.received = b""
        self.version: int | None = None
        self.unacknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.received += data
        if self.version is None:
            if len(self.received) < len(PREFACE) and PREFACE.startswith(self.received):
                return
            self.version = 2 if self.received.startswith(PREFACE) else 1
            if self.version == 2:
                self.received = self.received[len(PREFACE) :]
                self.greet()
        if self.version == 1:
            self.read_requests()
        else:
            self.read_frames()

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def read_requests(self) -> None:
        """Take every HTTP/1.1 request that has come whole."""
        while True:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            line = self.received[: self.received.find(b"\r\n")]
            head = self.received[:end].lower()
            place = head.find(b"content-length:")
            length = 0 if place < 0 else int(head[place + 15 :].split(b"\r\n", 1)[0])
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            self.take(head, line)

    def take(self, head: bytes, line: bytes) -> None:
        """Answer an HTTP/1.1 request, by how its lower-case head begins, and its first line."""
        if head.startswith(b"get /stats"):
            self.write(self.gate.stats())
            return
        for start, answer in INDEX_ANSWERS.items():
            if head.startswith(start):
                self.write(answer)
                return
        path = line.split(b" ")[1].partition(b"?")[0]
        document = unquote(path.rpartition(b"/")[2].decode())
        self.gate.take(lambda status: self.write(named_answer(status, document)))

    def greet(self) -> None:
        """No HPACK table (so that headers can be skipped), many streams, and a wide window."""
        table, streams, window = (
            (1).to_bytes(2, "big") + (0).to_bytes(4, "big"),
            (3).to_bytes(2, "big") + (4096).to_bytes(4, "big"),
            (4).to_bytes(2, "big") + WINDOW.to_bytes(4, "big"),
        )
        self.write(frame(SETTINGS, 0, 0, table + streams + window))
        self.write(frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big")))

    def read_frames(self) -> None:
        """Take every HTTP/2 frame that has come whole."""
        data, place = self.received, 0
        while len(data) - place >= 9:
            length = int.from_bytes(data[place : place + 3], "big")
            if len(data) - place < 9 + length:
                break
            kind, flags = data[place + 3], data[place + 4]
            stream = int.from_bytes(data[place + 5 : place + 9], "big")
            payload = place + 9
            place = payload + length
            if kind in (DATA, HEADERS):
                self.unacknowledged += length if kind == DATA else 0
                if flags & END_STREAM:
                    self.gate.take(lambda status, stream=stream: self.answer(stream, status))  # type: ignore[misc]
            elif kind == SETTINGS and not flags & ACK:
                self.write(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.write(frame(PING, ACK, 0, data[payload:place]))
        self.received = data[place:]
        if self.unacknowledged > WINDOW // 2:
            self.write(frame(WINDOW_UPDATE, 0, 0, self.unacknowledged.to_bytes(4, "big")))
            self.unacknowledged = 0

    def answer(self, stream: int, status: int) -> None:
        """Answer an HTTP/2 request."""
        block, body = HTTP2_ANSWERS[status]
        head = frame(HEADERS, END_HEADERS, stream, block)
        self.write(head + frame(DATA, END_STREAM, stream, body))


async def serve(gate: Gate, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(gate), "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", default="0,0", help="milliseconds, from,to")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=256)
    parser.add_argument("--failing", type=float, default=0.0)
    options = parser.parse_args()
    low, high = (float(part) / 1000 for part in options.delay.split(","))
    gate = Gate((low, high), options.slots, options.waiting, options.failing)
    gc.freeze()
    asyncio.run(serve(gate, options.port))


if __name__ == "__main__":
    main()
