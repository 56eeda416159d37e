"""Connections whose every wait ends: slow clients are cut off."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clipsearch.server.settings import ServerLimits


def protocol_of(limits: ServerLimits) -> type[asyncio.Protocol]:
    """Return the HTTP protocol that a server of these limits speaks."""

    class TimedProtocol(HttpToolsProtocol):
        """Closes a connection whose request's head does not come, or that takes no answer.

        And one with a head, or with lines behind a body in pieces, that are too long: the parser
        would keep them whole however long they are.
        """

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None
            self._taken = self._taken_of_body = 0  # since a message began

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(limits.head_seconds, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._head_timer, self._write_timer)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._taken += len(data)
            super().data_received(data)
            # What is no body is its frame, a small part, and what stands behind it.
            if self._taken > limits.head_bytes + 2 * self._taken_of_body:
                self._refuse()
            # Between two requests the server's own timer waits for the next one.
            if not self._is_under_way():
                if self._head_timer is None:
                    self._head_timer = self.loop.call_later(
                        limits.head_seconds, self.transport.abort
                    )
            else:
                _cancel(self._head_timer)
                self._head_timer = None

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._taken = self._taken_of_body = 0

        def on_body(self, body: bytes) -> None:
            self._taken_of_body += len(body)
            super().on_body(body)

        def _is_under_way(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _refuse(self) -> None:
            if self.transport.is_closing():
                return
            if self._is_under_way():
                self.transport.abort()  # another text would come into the middle of its answer
            else:
                self.send_400_response("The head of the request is too long.")

        def pause_writing(self) -> None:
            super().pause_writing()
            _cancel(self._write_timer)
            self._write_timer = self.loop.call_later(limits.stalled_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            _cancel(self._write_timer)
            self._write_timer = None
            super().resume_writing()

    return TimedProtocol


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
