"""One deadline for a whole piece of work whose own waits know none, or one for each packet."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLICE_SECONDS = 0.2


class GivenUpError(Exception):
    """The work took too long."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Give what `work` gives, or raise what it raises, and GivenUpError after `seconds`.

    The work runs in a thread, and goes on in it where it is given up: it must end by itself, and
    ends with the process at the latest. Ctrl-C is heard at once.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, name="within-deadline", daemon=True).start()
    until = time.monotonic() + seconds
    while True:
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise GivenUpError
        with contextlib.suppress(queue.Empty):
            result, failure = done.get(timeout=min(remaining, SLICE_SECONDS))
            if failure is not None:
                raise failure
            return result  # type: ignore[return-value]
