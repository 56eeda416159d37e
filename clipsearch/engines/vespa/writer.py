"""One operation as Vespa takes it: its request, and what the answer means for the feed."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

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
from clipsearch.engines.vespa.http.connection import RETRIED_STATUSES, Client, Json
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
class Request:
    """What an operation asks of Vespa: all of it, where it is one request with a body."""

    operation: Operation
    method: str
    path: str
    body: bytes


class Writer:
    """Applies one operation at a time; safe between threads."""

    def __init__(
        self, client: Client, info: IndexInfo, places: ColumnPlaces, stop: threading.Event
    ) -> None:
        self._client = client
        self._info = info
        self._places = places
        self._stop = stop
        self._query = f"?timeout={client.settings.timeout:g}s"

    def prepare(self, operation: Operation) -> Request | Outcome | None:
        """Return the request, or the outcome where the operation can be none.

        None where there is more to do: `apply` does it.
        """
        match operation:
            case Upsert(document):
                if not self._places.know(document.numbers):
                    return None
            case DerivedFields():
                pass
            case _:
                return None
        try:
            return self._request(operation)
        except DocumentError as error:
            return Outcome(operation, str(error))

    def apply(self, operation: Operation) -> Outcome:
        """Apply the operation and return the outcome; raises FeedStoppedError where no operation
        would fare better.
        """
        if self._stop.is_set():
            raise FeedStoppedError(f"{self._client.target}: the feed was stopped")
        try:
            match operation:
                case Upsert() | DerivedFields():
                    request = self._request(operation)
                    return self._send(operation, request.method, request.body)
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

    def send_again(self, request: Request) -> Outcome:
        """Send what has failed once, after a wait; raises as `apply` does."""
        return self._send(request.operation, request.method, request.body, again=True)

    def _request(self, operation: Upsert | DerivedFields) -> Request:
        path = document_path(operation.id) + self._query
        if isinstance(operation, DerivedFields):
            return Request(operation, "PUT", path, orjson.dumps(update_fields(operation, {})))
        document = storable(operation.document)
        check_document(document, self._info.dimension)
        places = self._places_of(document.numbers)
        body = put_fields(document, self._info.precision, places=places)
        return Request(operation, "POST", path, orjson.dumps(body))

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
            return self.judge(update, status, content)
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

    def _send(
        self, operation: Operation, method: str, body: Json, *, again: bool = False
    ) -> Outcome:
        path = document_path(operation.id) + self._query
        return self.judge(operation, *self._call(operation, method, path, body, again=again))

    def _call(
        self, operation: Operation, method: str, path: str, body: Json, *, again: bool = False
    ) -> tuple[int, Json]:
        patience, name = self._client.settings.feed_patience, document_name(operation.id)
        try:
            return self._client.call(
                method, path, body, patience=patience, stop=self._stop, about=name, again=again
            )
        except EngineError as error:
            raise FeedStoppedError(str(error)) from error

    def judge(self, operation: Operation, status: int, content: Json) -> Outcome:
        """Return what an answer means for the operation; raises as `apply` does."""
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
