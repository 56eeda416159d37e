"""Connections whose every wait ends: slow clients are cut off."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clipsearch.server.settings import ServerLimits


def protocol_of(limits: ServerLimits) -> type[asyncio.Protocol]:
    """Return the HTTP protocol that a server of these limits speaks."""

    class TimedProtocol(HttpToolsProtocol):
        """Closes a connection whose request's head does not come, or that takes no answer.

        And one whose head is too long, which the parser would keep whole however long it is.
        """

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None
            self._head_bytes: int | None = None  # while one comes

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(limits.head_seconds, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._head_timer, self._write_timer)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Between two requests the server's own timer waits for the next one.
            if self.cycle is None or self.cycle.response_complete:
                if self._head_bytes is not None and not self.transport.is_closing():
                    self._head_bytes += len(data)
                    if self._head_bytes > limits.head_bytes:
                        self.send_400_response("The head of the request is too long.")
                if self._head_timer is None:
                    self._head_timer = self.loop.call_later(
                        limits.head_seconds, self.transport.abort
                    )
            else:
                _cancel(self._head_timer)
                self._head_timer = None

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head_bytes = 0

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._head_bytes = None

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
