"""Work done ahead in a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# How often a thread that waits for room looks whether its reader has stopped.
STOP_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


@contextmanager
def closed_after(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Close a generator when the block ends, also where an exception still refers to it."""
    try:
        yield items
    finally:
        if isinstance(items, Generator):
            items.close()


def read_ahead(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """Iterate `items` in a thread, at most `size` results ahead of the caller.

    An exception of `items` is raised here, after the results before it. When this generator is
    closed, `items` is closed too (in its thread), and the thread has ended.
    """
    results: queue.Queue[_Item[T] | _End] = queue.Queue(size)
    stopped = threading.Event()

    def put(result: _Item[T] | _End) -> bool:
        while not stopped.is_set():
            try:
                results.put(result, timeout=STOP_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            with closed_after(items):
                for item in items:
                    if not put(_Item(item)):
                        break
        except BaseException as raised:
            error = raised
        put(_End(error))

    thread = threading.Thread(target=produce, name="clipsearch-ahead", daemon=True)
    thread.start()
    try:
        while True:
            result = results.get()
            if isinstance(result, _End):
                if result.error is not None:
                    raise result.error
                return
            yield result.value
    finally:
        stopped.set()
        thread.join()
