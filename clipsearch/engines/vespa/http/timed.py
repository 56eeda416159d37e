"""HTTP/1.1 of which every wait ends: one deadline for a whole answer, from the host's name on.

The standard library's timeout holds for each packet: a server that sends a byte of a header now
and then, or `100 Continue` for ever, would never reach it. Here each wait is cut into slices,
between which the clock is looked at, and whether whoever asked has left.
"""

import contextlib
import io
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from errno import EINPROGRESS
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from os import strerror
from typing import Any, TypeVar

SLICE_SECONDS = 0.2
CONNECT_SECONDS = 10.0
# No page of answers comes near it; what is larger would fill the memory within any deadline.
LARGEST_ANSWER = 256 * 2**20
_READ_BYTES = 65_536

Addresses = list[tuple[Any, ...]]
T = TypeVar("T")


class LeftError(Exception):
    """Whoever asked does not wait for the answer any more."""


class TooLargeError(HTTPException):
    """The answer has more than LARGEST_ANSWER bytes."""


class Limit:
    """Until when one request may take, and what ends it before."""

    def __init__(self, seconds: float, left: threading.Event | None = None) -> None:
        """`left` is set, in any thread, where nobody waits for the answer any more."""
        self._until = time.monotonic() + seconds
        self._left = left

    def within(self, seconds: float) -> "Limit":
        """Return the same, but no later than `seconds` from now."""
        remaining = self._until - time.monotonic()
        return Limit(min(seconds, remaining), self._left)

    def slice(self) -> float:
        """Return the seconds to wait now. Raises TimeoutError or LeftError where none are left."""
        if self._left is not None and self._left.is_set():
            raise LeftError
        remaining = self._until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return min(remaining, SLICE_SECONDS)


class TimedConnection(HTTPConnection):
    """A connection that waits no longer than `limit`, set before each request, allows."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """Nothing is sent yet. The certificate must name `server_name`, or else `host`."""
        super().__init__(host, port, blocksize=_READ_BYTES)
        self.limit = Limit(CONNECT_SECONDS)
        self._gathered: bytearray | None = None
        self._tls, self._server_name = tls, server_name or host
        if tls is not None:
            self.default_port = 443
        # The two places that the standard library leaves for this; the second has no public name.
        self.response_class = self._response  # type: ignore[assignment]
        self._create_connection = self._open

    def connect(self) -> None:
        """Connect, through a proxy's tunnel where one is set, and shake hands over TLS."""
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(
                self.sock, server_hostname=self._server_name, do_handshake_on_connect=False
            )
            shake_hands: ssl.SSLSocket = self.sock
            _in_slices(self.sock, self.limit.within(CONNECT_SECONDS), shake_hands.do_handshake)

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send a request, its head and a body of bytes in one piece: that is half the time."""
        self._gathered = bytearray()
        try:
            super().request(*arguments, **options)
            self._send_gathered()
        finally:
            self._gathered = None

    def send(self, data: Any) -> None:
        """Send bytes, or a file to its end."""
        if self.sock is None:
            # What a proxy is told before is sent by itself.
            gathered, self._gathered = self._gathered, None
            self.connect()
            self._gathered = gathered
        if self._gathered is not None and not hasattr(data, "read"):
            self._gathered += data
            return
        self._send_gathered()
        if not hasattr(data, "read"):
            self._send_all(data)
            return
        while block := data.read(self.blocksize):
            self._send_all(block)

    def read_whole(self, answer: HTTPResponse) -> bytes:
        """Read the body to its end. Raises TooLargeError, or IncompleteRead where it broke off."""
        parts, come = [], 0
        while part := answer.read(_READ_BYTES):
            parts.append(part)
            come += len(part)
            if come > LARGEST_ANSWER:
                raise TooLargeError
        if answer.length:
            raise IncompleteRead(parts[-1] if parts else b"", answer.length)
        return b"".join(parts)

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, None
            self._send_all(gathered)

    def _send_all(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)

        def send_some() -> int:
            return self.sock.send(rest)

        while rest:
            rest = rest[_in_slices(self.sock, self.limit, send_some) :]

    def _response(self, sock: socket.socket, **options: Any) -> HTTPResponse:
        answer = HTTPResponse(sock, **options)
        answer.fp = io.BufferedReader(_Received(sock, answer.fp, self.limit), _READ_BYTES)
        return answer

    def _open(self, address: tuple[str, int], *options: Any) -> socket.socket:
        limit = self.limit.within(CONNECT_SECONDS)
        failure: OSError = ConnectionError("the host has no address")
        for family, kind, protocol, _, place in _look_up(*address, limit):
            sock = socket.socket(family, kind, protocol)
            try:
                _connect(sock, place, limit)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure


def recorded_head(host: str, port: int, method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """Return what the standard library would send before a body; nothing is sent."""
    recorded = _Recorded(host, port)
    recorded.request(method, url, b"", headers)
    return recorded.sent


class _Recorded(HTTPConnection):
    """Keeps what it would send."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.sent = b""

    def send(self, data: Any) -> None:
        self.sent += data


class _Received(io.RawIOBase):
    """What comes through a socket."""

    def __init__(self, sock: socket.socket, file: io.BufferedIOBase, limit: Limit) -> None:
        """`file` is the socket's own, which keeps it open until this one is closed."""
        self._sock, self._file, self._limit = sock, file, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return _in_slices(self._sock, self._limit, lambda: self._sock.recv_into(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()


def _in_slices(sock: socket.socket, limit: Limit, wait: Callable[[], T]) -> T:
    """Return what `wait` gives, tried again after each slice that was not enough."""
    while True:
        sock.settimeout(limit.slice())
        with contextlib.suppress(TimeoutError):
            return wait()


def _connect(sock: socket.socket, place: Any, limit: Limit) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(place)
    if code == EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while not poll.poll(1000 * limit.slice()):
            pass
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, strerror(code))


def _look_up(host: str, port: int, limit: Limit) -> Addresses:
    """Look up a host's addresses.

    The system's own call knows no deadline, and goes on in a thread.
    """
    found: queue.SimpleQueue[Addresses | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else socket.gaierror(str(error)))

    threading.Thread(target=look, name="vespa-lookup", daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty):
            answer = found.get(timeout=limit.slice())
            if isinstance(answer, OSError):
                raise answer
            return answer
