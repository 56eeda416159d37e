"""Decode and resize pictures, here or in worker processes, in order.

Imports without torch, so that a worker starts quickly and stays small.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from finetune.errors import ImageError, TrainingError
from finetune.images.pixels import load_picture
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

Pixels = npt.NDArray[np.uint8]

CHUNK = 16
CHUNKS_AHEAD_PER_WORKER = 4
PROBE = 32
# Starting workers costs about a second, so a job that takes no longer stays in this process.
WORTH_WORKERS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that was read, or the reason why it was not.

    Attributes:
        pixels: uint8[height, width, 3]; None where the picture cannot be read.
        error: One sentence that names the file; None where it was read.
        note: What a user should know of how it was read; None for most.
    """

    pixels: Pixels | None
    error: str | None = None
    note: str | None = None


class Decoder:
    """Gives for each picture its pixels, or the reason why it cannot be read.

    A context manager: leaving it ends the workers.
    """

    def __init__(self, preprocessing: Preprocessing, workers: int | None) -> None:
        """`workers` processes; 0 decodes in this one; None decides by how long pictures take."""
        self.preprocessing = preprocessing
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what they have not done is dropped."""
        if self._pool is not None:
            # Killed, not asked: a decoding picture may take seconds, and nothing is lost with it.
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def decode(self, sources: Sequence[ImageSource]) -> Iterator[Decoded]:
        """Each source's pixels or the reason why there are none, in order.

        Raises TrainingError where a worker was killed.
        """
        done = 0
        if self._workers is None:
            started = time.perf_counter()
            for source in islice(sources, PROBE):
                yield decode_one(source, self.preprocessing)
                done += 1
            expected = (time.perf_counter() - started) / max(done, 1) * (len(sources) - done)
            self._workers = available_cpus() if expected > WORTH_WORKERS_SECONDS else None
        rest = sources[done:]
        if self._workers:
            chunks = (rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK))
            for chunk in self.decode_ahead(chunks, self._workers * CHUNKS_AHEAD_PER_WORKER):
                yield from chunk
        else:
            for source in rest:
                yield decode_one(source, self.preprocessing)

    def decode_ahead(
        self, chunks: Iterable[Sequence[ImageSource]], ahead: int
    ) -> Iterator[list[Decoded]]:
        """The same by chunk, with at most `ahead` chunks in the workers' hands."""
        if not self._workers:
            for chunk in chunks:
                yield [decode_one(source, self.preprocessing) for source in chunk]
            return
        pool = self._start_pool(self._workers)
        waiting: deque[Future[list[Decoded]]] = deque()
        remaining = iter(chunks)
        try:
            for chunk in islice(remaining, ahead):
                waiting.append(pool.submit(decode_chunk, chunk, self.preprocessing))
            while waiting:
                decoded = waiting.popleft().result()
                for chunk in islice(remaining, 1):
                    waiting.append(pool.submit(decode_chunk, chunk, self.preprocessing))
                yield decoded
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that decodes pictures was killed, most likely for want of memory;"
                " use fewer with --workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _start_pool(self, workers: int) -> ProcessPoolExecutor:
        if self._pool is None:
            # Never fork: torch's threads do not survive it.
            method = "forkserver" if sys.platform == "linux" else "spawn"
            self._pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context(method), initializer=_follow_parent
            )
        return self._pool


def decode_one(source: ImageSource, preprocessing: Preprocessing) -> Decoded:
    """The picture's pixels, or why it cannot be read."""
    try:
        pixels, note = load_picture(source, preprocessing)
        return Decoded(pixels, note=note)
    except ImageError as error:
        return Decoded(None, str(error))


def decode_chunk(sources: Sequence[ImageSource], preprocessing: Preprocessing) -> list[Decoded]:
    """What one call of a worker does."""
    return [decode_one(source, preprocessing) for source in sources]


def available_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and die with it, even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
