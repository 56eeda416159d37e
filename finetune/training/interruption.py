"""Ctrl-C and SIGTERM between two steps instead of within one."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(Exception):  # noqa: N818  # no error: the user asked for it
    """The user asked to stop, and the state is one that can be saved."""


class ToldInterrupt(KeyboardInterrupt):
    """The user stopped a run, and was told how it goes on."""


_current: "Interruption | None" = None


def current() -> "Interruption | None":
    """Return the one that is in force: it takes the next signal, and the state will be saved."""
    return _current


class Interruption:
    """Remembers the first signal and lets the second one through as KeyboardInterrupt.

    A context manager. Outside the main thread, where python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        global _current
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
            _current = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _current
        if _current is self:
            _current = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted where a signal has come; call it where the state can be saved."""
        if self.requested:
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
