"""Operations of a feed under way: most in the thread of the feed, the others in their own."""

import queue
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.http.connection import (
    RETRIED_STATUSES,
    Client,
    Reply,
    why_doubted,
)
from clipsearch.engines.vespa.http.leavable import LeavableTransport
from clipsearch.engines.vespa.http.multiplexed import Multiplexed
from clipsearch.engines.vespa.http.throttle import Throttle, ThrottledTransport
from clipsearch.engines.vespa.http.timed import SLICE_SECONDS
from clipsearch.engines.vespa.index_info import ColumnPlaces
from clipsearch.engines.vespa.operations import document_name
from clipsearch.engines.vespa.writer import FeedStoppedError, Request, Writer
from clipsearch.operations import Operation, Outcome


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an operation: an outcome, or what stops the feed, or neither in one that was
    stopped.
    """

    operation: Operation
    outcome: Outcome | None
    failure: BaseException | None = None


class Sending:
    """Sends operations, and tells what became of each. To be called from one thread.

    A put goes over the open connections together with others (`Multiplexed`). What takes more than
    one request, what opens a connection, and what has failed once is done in a thread of its own.
    """

    def __init__(self, client: Client, info: IndexInfo, places: ColumnPlaces) -> None:
        """Nothing is sent yet. `close` leaves `client` open."""
        self._stop, self._left = threading.Event(), threading.Event()
        self._throttle = throttle = Throttle(client.settings.connections)
        left = self._left
        throttled = client.through(
            lambda transport: ThrottledTransport(LeavableTransport(transport, left), throttle)
        )
        self._writer = Writer(throttled, info, places, self._stop)
        self._many: Multiplexed[Request] | None = Multiplexed.over(client, throttle)
        self._ready: deque[Request] = deque()
        self._unsent: deque[Done] = deque()
        self._threads = _Threads(self._writer, client.settings.connections)
        if self._many is not None:
            self._many.wake_at(self._threads.heard.fileno())

    def submit(self, operation: Operation) -> None:
        """Send it, as soon as there is room."""
        prepared = None if self._many is None else self._writer.prepare(operation)
        match prepared:
            case None:
                self._threads.submit(operation)
            case Outcome():
                self._unsent.append(Done(operation, prepared))
            case Request():
                self._ready.append(prepared)

    def collect(self, wait: bool) -> Iterator[Done]:
        """Send what there is room for, and yield what is done.

        With `wait`, after a moment at most where nothing is.
        """
        threads = self._threads
        if self._many is None:
            yield from threads.collect(SLICE_SECONDS if wait else 0.0)
            return
        self._send_ready(self._many)
        waiting = wait and not self._unsent and threads.done.empty()
        for request, reply in self._many.answers(SLICE_SECONDS if waiting else 0.0):
            done = self._judged(request, reply)
            if done is None:
                threads.submit(request)
            else:
                yield done
        yield from threads.collect(0.0)
        while self._unsent:
            yield self._unsent.popleft()
        while self._ready and self._stop.is_set():
            yield Done(self._ready.popleft().operation, None)

    def stop(self) -> None:
        """Begin nothing more, and try nothing again: all that was submitted is done soon."""
        self._stop.set()

    def close(self) -> None:
        """End all that is under way, without its answers."""
        self._stop.set()
        self._left.set()
        if self._many is not None:
            self._many.close()
        self._threads.close()

    def _send_ready(self, many: Multiplexed[Request]) -> None:
        while self._ready and not self._stop.is_set():
            request = self._ready[0]
            if not many.send(request, request.method, request.path, request.body):
                if not self._throttle.has_room:
                    return
                # No connection is open: a thread opens one, and leaves it to the next.
                self._threads.submit(request.operation)
            self._ready.popleft()

    def _judged(self, request: Request, reply: Reply | None) -> Done | None:
        """Return what the answer means; None where the request must be sent again."""
        if reply is None or reply.status in RETRIED_STATUSES:
            return None
        operation, content = request.operation, reply.json()
        if why_doubted(reply, content, document_name(operation.id)) is not None:
            return None
        try:
            return Done(operation, self._writer.judge(operation, reply.status, content))
        except FeedStoppedError as error:
            return Done(operation, None, error)


class _Threads:
    """Threads that apply an operation each, or send a request again."""

    def __init__(self, writer: Writer, most: int) -> None:
        self._writer, self._most = writer, most
        self._todo: queue.SimpleQueue[Operation | Request | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way = 0
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.heard, self._bell = socket.socketpair()  # can be read where something is done
        self.heard.setblocking(False)

    def submit(self, work: Operation | Request) -> None:
        """Do it in a thread."""
        self._under_way += 1
        # An executor makes a future for each operation, which nobody waits for.
        if len(self._threads) < min(self._under_way, self._most):
            name = f"vespa-feed-{len(self._threads)}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._todo.put(work)

    def collect(self, wait: float) -> Iterator[Done]:
        """Yield what is done, after `wait` seconds at most where nothing is."""
        if self._under_way:
            with suppress(BlockingIOError):
                self.heard.recv(65_536)
        with suppress(queue.Empty):
            # In slices: a Ctrl-C just before a wait is heard only when that ends.
            done = self.done.get(timeout=wait) if wait else self.done.get_nowait()
            while True:
                self._under_way -= 1
                yield done
                done = self.done.get_nowait()

    def close(self) -> None:
        """Begin nothing more, and wait for the threads."""
        with suppress(queue.Empty):
            while True:
                self._todo.get_nowait()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # Ctrl-C came while it was started
                thread.join()
        self.heard.close()
        self._bell.close()

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            self.done.put(self._applied(work))
            with suppress(OSError):  # nobody waits any more
                self._bell.send(b".")

    def _applied(self, work: Operation | Request) -> Done:
        operation = work.operation if isinstance(work, Request) else work
        try:
            if isinstance(work, Request):
                return Done(operation, self._writer.send_again(work))
            return Done(operation, self._writer.apply(work))
        except BaseException as error:
            return Done(operation, None, error)
