"""Connections whose every wait ends: slow clients are cut off."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from clipsearch.server.settings import ServerLimits


def protocol_of(limits: ServerLimits) -> type[asyncio.Protocol]:
    """Return the HTTP protocol that a server of these limits speaks."""

    class TimedProtocol(H11Protocol):
        """Closes a connection whose request's head does not come, or that takes no answer."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None

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
                if self._head_timer is None:
                    self._head_timer = self.loop.call_later(
                        limits.head_seconds, self.transport.abort
                    )
            else:
                _cancel(self._head_timer)
                self._head_timer = None

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
