"""Writing to Vespa: many requests under way, and nothing done before it is acknowledged.

Back-pressure is Vespa's own: where it has too much to do it answers 429, and fewer requests are
sent at once (`clipsearch.engines.vespa.http.throttle`). What is refused waits and is tried again,
holding its
place, so that nothing new is pulled meanwhile.
"""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from clipsearch.documents import check_document, storable
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.answers import (
    TOO_LONG,
    failure_sentence,
    is_foreign_package,
    is_missing,
    refusal,
    vespa_message,
)
from clipsearch.engines.vespa.http.connection import (
    RETRIED_STATUSES,
    Client,
    Json,
    LeavableTransport,
)
from clipsearch.engines.vespa.http.throttle import Throttle, ThrottledTransport
from clipsearch.engines.vespa.http.timed import SLICE_SECONDS
from clipsearch.engines.vespa.index_info import ColumnPlaces
from clipsearch.engines.vespa.operations import (
    DerivedFields,
    document_name,
    document_path,
    put_fields,
    update_fields,
)
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert, UpsertMany
from clipsearch.storable import shown_id, why_no_id
from finetune.errors import DocumentError, EngineError

NO_SPACE = 507
BAD_REQUEST = 400
_REFUSED_ACCESS = frozenset({401, 403})


class FeedStoppedError(EngineError):
    """The feed as a whole cannot go on: no space, no access, or no Vespa."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What a worker reports: an outcome, or what stops the feed."""

    operation: Operation
    outcome: Outcome | None
    failure: BaseException | None = None


def feed(
    client: Client, operations: Iterable[Operation], info: IndexInfo, places: ColumnPlaces
) -> Generator[Outcome, None, None]:
    """Apply operations to the index of `info`; one Outcome each, as Vespa answers it.

    Outcomes come in the order in which Vespa answers. Two operations of one id are never under way
    together. Raises FeedStoppedError after the outcomes of all that was acknowledged: operations
    that are under way then have no outcome and must be fed again. Left early (closed, or by
    Ctrl-C), it waits for no answer any more.
    """
    stop, left = threading.Event(), threading.Event()
    done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
    under_way: set[str] = set()
    throttle = Throttle(client.settings.connections)
    throttled = client.through(
        lambda transport: ThrottledTransport(LeavableTransport(transport, left), throttle)
    )
    writer = _Writer(throttled, info, places, stop)
    failure: BaseException | None = None
    todo: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
    threads: list[threading.Thread] = []

    def work() -> None:
        while (operation := todo.get()) is not None:
            try:
                done.put(_Done(operation, writer.apply(operation)))
            except BaseException as error:
                done.put(_Done(operation, None, error))

    def submit(operation: Operation) -> None:
        # An executor makes a future for each operation, which nobody waits for.
        if len(threads) < min(len(under_way), client.settings.connections):
            thread = threading.Thread(target=work, name=f"vespa-feed-{len(threads)}", daemon=True)
            threads.append(thread)
            thread.start()
        todo.put(operation)

    def collect(wait: bool) -> Iterator[Outcome]:
        nonlocal failure
        while wait or not done.empty():
            try:
                # In slices: a Ctrl-C just before a wait is heard only when that ends.
                report = done.get(timeout=SLICE_SECONDS)
            except queue.Empty:
                continue
            under_way.discard(report.operation.id)
            wait = False
            if report.outcome is not None:
                yield report.outcome
            elif failure is None:
                failure = report.failure
                stop.set()

    try:
        pulled = iter(operations)
        while failure is None:
            try:
                operation = next(pulled)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            full = 2 * client.settings.connections  # no connection waits for the next pull
            while failure is None and (len(under_way) >= full or operation.id in under_way):
                yield from collect(wait=True)
            if failure is None:
                under_way.add(operation.id)
                submit(operation)
                yield from collect(wait=False)
        while under_way:
            yield from collect(wait=True)
        if failure is not None:
            raise failure
    finally:
        stop.set()
        left.set()
        with suppress(queue.Empty):
            while True:
                todo.get_nowait()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join()


class _Writer:
    """Applies one operation at a time; safe between threads."""

    def __init__(
        self, client: Client, info: IndexInfo, places: ColumnPlaces, stop: threading.Event
    ) -> None:
        self._client = client
        self._info = info
        self._places = places
        self._stop = stop
        self._query = f"?timeout={client.settings.timeout:g}s"

    def apply(self, operation: Operation) -> Outcome:
        """Apply the operation and return the outcome; raises FeedStoppedError where no operation
        would fare better.
        """
        if self._stop.is_set():
            raise FeedStoppedError(f"{self._client.target}: the feed was stopped")
        try:
            match operation:
                case Upsert(document):
                    document = storable(document)
                    check_document(document, self._info.dimension)
                    places = self._places_of(document.numbers)
                    body = put_fields(document, self._info.precision, places=places)
                    return self._send(operation, "POST", body)
                case DerivedFields():
                    return self._send(operation, "PUT", update_fields(operation, {}))
                case Update():
                    return self._update(operation)
                case Delete(name):
                    if why_no_id(name) is not None:  # nothing can have it
                        return Outcome(operation)
                    return self._send(operation, "DELETE", None)
                case UpsertMany():
                    raise TypeError("each document is a request: `takes_many` is False")
        except DocumentError as error:
            return Outcome(operation, str(error))

    def _update(self, update: Update) -> Outcome:
        """Send an update after a look: one of a missing document does nothing, and Vespa answers
        200.
        """
        if why_no_id(update.id) is not None:
            return self._missing(update)
        path = document_path(update.id) + f"{self._query}&fieldSet=image:id"
        status, content = self._call(update, "GET", path, None)
        if is_missing(status, content):
            return self._missing(update)
        if status != 200:
            return self._judge(update, status, content)
        kept = update.storable()
        body = update_fields(kept, self._places_of(kept.parts.get("numbers", ())))
        return self._send(update, "PUT", body) if body["fields"] else Outcome(update)

    @staticmethod
    def _missing(update: Update) -> Outcome:
        return Outcome(update, f"{shown_id(update.id)}: no such document; nothing was updated")

    def _places_of(self, columns: Iterable[str]) -> Mapping[str, int]:
        try:
            return self._places.of(columns)
        except EngineError as error:
            raise FeedStoppedError(str(error)) from error

    def _send(self, operation: Operation, method: str, body: Json) -> Outcome:
        path = document_path(operation.id) + self._query
        return self._judge(operation, *self._call(operation, method, path, body))

    def _call(self, operation: Operation, method: str, path: str, body: Json) -> tuple[int, Json]:
        settings, name = self._client.settings, document_name(operation.id)
        try:
            return self._client.call(
                method, path, body, patience=settings.feed_patience, stop=self._stop, about=name
            )
        except EngineError as error:
            raise FeedStoppedError(str(error)) from error

    def _judge(self, operation: Operation, status: int, content: Json) -> Outcome:
        if status == 200:
            return Outcome(operation)
        target = self._client.target
        message = vespa_message(content)
        if status == NO_SPACE:
            raise FeedStoppedError(f"{target}: {message}")
        if status in RETRIED_STATUSES:
            seconds = self._client.settings.feed_patience
            raise FeedStoppedError(f"{failure_sentence(status, content, target)} ({seconds:g} s)")
        if status in TOO_LONG or (status == BAD_REQUEST and not message):
            # Not from Vespa, but from its HTTP server or a proxy: of this document alone.
            return Outcome(operation, f"{shown_id(operation.id)}: {refusal(status)}")
        if status in _REFUSED_ACCESS or not message or is_foreign_package(message):
            raise FeedStoppedError(failure_sentence(status, content, target))
        return Outcome(operation, f"{operation.id}: {message}")
