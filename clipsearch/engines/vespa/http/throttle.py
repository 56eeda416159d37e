"""How many requests are under way at once: more while Vespa keeps up, fewer when it says 429.

Vespa's document API answers 429 where its queue is full. The limit then follows the rule of TCP
(RFC 5681, RFC 9438): it grows by one with every answer until the first 429, from then on by one
with every whole round of answers, and shrinks to 0.7 of itself once a round at most, as one full
queue refuses many requests at once. Other failures tell nothing about the queue: they are tried
again after a wait (`clipsearch.engines.vespa.http.connection`), and leave the limit as it is.
"""

import threading

from clipsearch.engines.vespa.http.connection import Body, Reply, Transport

TOO_MANY = 429
FIRST_LIMIT = 16
SHRINK = 0.7


class Throttle:
    """The limit, and who is under way. Safe between threads."""

    def __init__(self, most: int) -> None:
        """`most` is never exceeded."""
        self._most = most
        self._limit = float(min(FIRST_LIMIT, most))
        self._refused = False
        self._round = 0
        self._under_way = 0
        self._waiting = 0
        self._room = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be under way now, at least 1."""
        return max(1, int(self._limit))

    @property
    def has_room(self) -> bool:
        """Whether a request could be sent now; another thread may send one before."""
        return not self._waiting and self._under_way < self.limit

    def enter(self) -> int:
        """Wait for room; the round in which the request is sent, for `leave`."""
        with self._room:
            self._waiting += 1
            try:
                while self._under_way >= self.limit:
                    self._room.wait()
            finally:
                self._waiting -= 1
            self._under_way += 1
            return self._round

    def enter_at_once(self) -> int | None:
        """Return what `enter` does; None where it would wait, or another thread waits already."""
        with self._room:
            if not self.has_room:
                return None
            self._under_way += 1
            return self._round

    def leave(self, sent_in: int, status: int | None) -> None:
        """Note that the request is through; `status` is its answer's, None where none came."""
        with self._room:
            full = self._under_way >= self.limit
            self._under_way -= 1
            if status == TOO_MANY:
                self._shrink(sent_in)
            elif status == 200 and full:
                step = 1 / self._limit if self._refused else 1.0
                self._limit = min(self._most, self._limit + step)
            free = self.limit - self._under_way
            if free > 0:
                self._room.notify(free)

    def _shrink(self, sent_in: int) -> None:
        if sent_in == self._round:
            self._limit = max(1.0, self._limit * SHRINK)
            self._round += 1
        self._refused = True


class ThrottledTransport:
    """A transport that sends no more at once than a throttle lets it."""

    def __init__(self, transport: Transport, throttle: Throttle) -> None:
        """Leave `transport` open where this is closed: it is its owner's."""
        self._transport = transport
        self._throttle = throttle

    def send(
        self,
        method: str,
        path: str,
        body: Body,
        content_type: str,
        timeout: float,
        left: threading.Event | None = None,
    ) -> Reply:
        """See `Transport`."""
        sent_in = self._throttle.enter()
        status = None
        try:
            reply = self._transport.send(method, path, body, content_type, timeout, left)
            status = reply.status
            return reply
        finally:
            self._throttle.leave(sent_in, status)

    def close(self) -> None:
        """See `Transport`."""
