"""Many requests under way in one thread, for what is answered as it should be.

A thread for each request takes more processor time in handing Python over from one to the next
than in all the rest. So whoever feeds sends on all open connections, and reads what has come. Only
the plain case is here: a connection that is open already, and an answer that came whole and in
time. All else (opening, TLS, and whatever goes wrong) is left to the transport and its threads.
"""

import select
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from httptools import HttpParserError, HttpResponseParser

from clipsearch.engines.vespa.http.connection import (
    SLOWEST_BYTES_PER_SECOND,
    Client,
    PoolTransport,
    Reply,
)
from clipsearch.engines.vespa.http.throttle import Throttle
from clipsearch.engines.vespa.http.timed import LARGEST_ANSWER, SLICE_SECONDS, TimedConnection

_MARK = "/the-path"
_READ_BYTES = 65_536
Key = TypeVar("Key")


@dataclass(slots=True)
class _Request(Generic[Key]):
    """A request under way; its parser calls what is named `on_…`.

    Attributes:
        rest: What is still to be sent.
        sent_in: The throttle's round.
        until: When the answer must have come, on the monotonic clock.
        come: Bytes of the answer's body.
        status: Of the answer, when it is whole.
        keeps: Whether its connection may serve again.
    """

    key: Key
    connection: TimedConnection
    rest: memoryview
    sent_in: int
    until: float
    content_type: str = ""
    parts: list[bytes] = field(default_factory=list)
    come: int = 0
    status: int | None = None
    keeps: bool = False
    parser: HttpResponseParser = field(init=False)

    def __post_init__(self) -> None:
        self.parser = HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.content_type = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)
        self.come += len(part)

    def on_message_complete(self) -> None:
        # Told here alone: afterwards the parser is at the next answer.
        self.status = self.parser.get_status_code()
        self.keeps = self.parser.should_keep_alive()


class Multiplexed(Generic[Key]):
    """Requests with a body of JSON, on the open connections of a pool. For one thread alone."""

    def __init__(self, transport: PoolTransport, throttle: Throttle, timeout: float) -> None:
        """`timeout` is that of `Transport.send`. `close` leaves `transport` open."""
        self._transport = transport
        self._throttle = throttle
        self._timeout = timeout
        self._heads: dict[str, tuple[bytes, bytes]] = {}
        self._poll = select.poll()
        self._under_way: dict[int, _Request[Key]] = {}
        self._looked_at = 0.0

    @classmethod
    def over(cls, client: Client, throttle: Throttle) -> "Multiplexed[Key] | None":
        """Return one over the client's connections; None where it can not share them."""
        transport = client.transport
        if not isinstance(transport, PoolTransport) or transport.is_encrypted:
            return None
        return cls(transport, throttle, client.settings.timeout + 5)

    def __len__(self) -> int:
        """Return the number of requests under way."""
        return len(self._under_way)

    def wake_at(self, descriptor: int) -> None:
        """End a wait for answers where this file can be read, too."""
        self._poll.register(descriptor, select.POLLIN)

    def send(self, key: Key, method: str, path: str, body: bytes) -> bool:
        """Send, unless no connection is open or the throttle would wait; whether it did."""
        sent_in = self._throttle.enter_at_once()
        if sent_in is None:
            return False
        connection = self._transport.take_open()
        if connection is None:
            self._throttle.leave(sent_in, None)
            return False
        sock = connection.sock
        sock.setblocking(False)
        until = time.monotonic() + self._timeout + len(body) / SLOWEST_BYTES_PER_SECOND
        whole = memoryview(self._head(method, path, len(body)) + body)
        request = _Request(key, connection, whole, sent_in, until)
        number = sock.fileno()
        self._under_way[number] = request
        self._write(request, number)
        return True

    def answers(self, wait: float) -> Iterator[tuple[Key, Reply | None]]:
        """Yield what has come, after `wait` seconds at most where nothing has.

        None stands for a request whose answer did not come whole and in time: whether it was
        done is not known.
        """
        for number, event in self._poll.poll(1000 * wait):
            if number not in self._under_way:
                continue
            request = self._under_way[number]
            if event == select.POLLOUT:
                self._write(request, number)
            elif not self._read(request):
                yield self._end(number, None)
            elif request.status is not None:
                body = b"".join(request.parts)
                yield self._end(number, Reply(request.status, body, request.content_type))
        now = time.monotonic()
        if now - self._looked_at > SLICE_SECONDS:
            self._looked_at = now
            late = [each for each, one in self._under_way.items() if one.until < now]
            yield from (self._end(number, None) for number in late)

    def close(self) -> None:
        """Close the connections of all that is under way, whose answers nobody waits for."""
        for number in list(self._under_way):
            self._end(number, None)

    def _head(self, method: str, path: str, size: int) -> bytes:
        if method not in self._heads:
            head = self._transport.head(method, _MARK, "application/json", 0)
            before, after = head.split(_MARK.encode())
            self._heads[method] = before, after.removesuffix(b"0\r\n\r\n")
        before, after = self._heads[method]
        return b"%b%b%b%d\r\n\r\n" % (before, path.encode("ascii"), after, size)

    def _write(self, request: _Request[Key], number: int) -> None:
        try:
            request.rest = request.rest[request.connection.sock.send(request.rest) :]
        except BlockingIOError:
            pass
        except OSError:
            # Refused before all was sent: an answer that tells why may have come.
            request.rest = memoryview(b"")
        more = select.POLLOUT if request.rest else 0
        self._poll.register(number, select.POLLIN | more)

    @staticmethod
    def _read(request: _Request[Key]) -> bool:
        """Read what has come; whether the answer may still be whole."""
        try:
            data = request.connection.sock.recv(_READ_BYTES)
            if data:
                request.parser.feed_data(data)
        except BlockingIOError:
            return True
        except (OSError, HttpParserError):
            return False
        return bool(data) and request.come <= LARGEST_ANSWER

    def _end(self, number: int, reply: Reply | None) -> tuple[Key, Reply | None]:
        request = self._under_way.pop(number)
        self._poll.unregister(number)
        self._throttle.leave(request.sent_in, None if reply is None else reply.status)
        if reply is not None and request.keeps and not request.rest:
            self._transport.give_back(request.connection)
        else:
            request.connection.close()
        return request.key, reply
