"""A server that answers with bytes as they are told, one connection a request, for tests."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Step = bytes | float


def http_answer(body: str, *, status: int = 200, length: str | None = None) -> bytes:
    data = body.encode()
    length = str(len(data)) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + data


def for_ever(*steps: Step) -> Iterator[Step]:
    while True:
        yield from steps


@dataclass
class RawServer:
    """A context manager; `url` is its address.

    `answer` gives for a request, whole, the bytes to send; or, as `script`, bytes and seconds to
    wait between. After them the connection is closed, unless `keep` is set.
    """

    answer: Callable[[bytes], bytes] | None = None
    script: Callable[[], Iterator[Step]] | None = None
    keep: bool = False
    requests: list[bytes] = field(default_factory=list)
    open: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        # Closed alone, it would not wake who waits for a connection.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self.open.add(connection)
        # The client may give up, as it should.
        with connection, contextlib.suppress(OSError):
            request = _whole_request(connection)
            self.requests.append(request)
            steps = iter([self.answer(request)]) if self.answer else iter(())
            if self.script is not None:
                steps = self.script()
            for step in steps:
                if self._ended.is_set():
                    break
                if isinstance(step, bytes):
                    connection.sendall(step)
                else:
                    time.sleep(step)
            while self.keep and not self._ended.is_set():
                if not connection.recv(65_536):
                    break
        self.open.discard(connection)


def _whole_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            while len(body) < int(value):
                body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    """Read on. Raises ConnectionError where the client has gone: nothing more ever comes."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("the client has gone")
    return data
