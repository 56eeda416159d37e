"""Decode pictures ahead of the encoder, in worker processes, in order.

The workers are started as programs of their own, never forked: a fork copies the locks of
onnxruntime's and LanceDB's threads, and may hang on them. Each is led by a thread of this
process over its stdin and stdout, so that there is nothing (shared memory, a helper process)
to be left behind: where this process dies, even of kill -9, its pipes close and the workers end.
"""

import contextlib
import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from finetune.errors import ClipsearchError, UsageError
from finetune.images.decode_worker import Reply, decode
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

T = TypeVar("T")

EXIT_SECONDS = 5.0
PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    """A picture that was read, or the reason why it was not.

    Attributes:
        key: What the caller gave with the picture.
        pixels: uint8[height, width, 3]; None where the picture cannot be read.
        error: One sentence that names the file; None where it was read.
        sha256: Of the file's bytes, in hex; None where the file itself cannot be read.
        note: What a user should know of how it was read; None for most.
    """

    key: T
    pixels: npt.NDArray[np.uint8] | None
    error: str | None
    sha256: str | None
    note: str | None = None


def decode_ahead(
    items: Iterable[tuple[T, ImageSource]],
    preprocessing: Preprocessing,
    *,
    workers: int,
    ahead: int = 128,
) -> Generator[Decoded[T], None, None]:
    """Read, decode, resize and crop pictures, in the order given.

    Args:
        items: Key and picture; read by the caller's thread, at most `ahead` before the picture
            that is given back.
        preprocessing: Of the encoder.
        workers: Processes, started with the first picture; 0 decodes in this one.
        ahead: Pictures decoded or waiting; each takes height x width x 3 bytes.

    Closing the generator kills the workers. Raises UsageError for numbers out of range, and,
    while it runs, ClipsearchError where a worker was killed (most often: no memory left).
    """
    if workers < 0 or ahead < 1:
        raise UsageError(f"workers={workers} and ahead={ahead}: take at least 0 and 1")
    if workers == 0:
        return _decode_here(items, preprocessing)
    return _decode_in_workers(items, preprocessing, workers, ahead)


def _decode_here(
    items: Iterable[tuple[T, ImageSource]], preprocessing: Preprocessing
) -> Generator[Decoded[T], None, None]:
    for key, source in items:
        yield Decoded(key, *decode(source, preprocessing))


def _decode_in_workers(
    items: Iterable[tuple[T, ImageSource]], preprocessing: Preprocessing, workers: int, ahead: int
) -> Generator[Decoded[T], None, None]:
    remaining = iter(items)
    waiting: deque[tuple[T, Future[Reply]]] = deque()
    pool = _Pool(preprocessing, workers)
    try:
        while True:
            for key, source in islice(remaining, ahead - len(waiting)):
                waiting.append((key, pool.submit(source)))
            if not waiting:
                return
            key, reply = waiting.popleft()
            yield Decoded(key, *reply.result())
    finally:
        pool.close()


class _Pool:
    """As many threads as workers; a thread starts a worker where none is idle."""

    def __init__(self, preprocessing: Preprocessing, workers: int) -> None:
        self._preprocessing = preprocessing
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="clipsearch-decode")
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def submit(self, source: ImageSource) -> Future[Reply]:
        return self._threads.submit(self._decode, source)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        # Killed, not asked: a decoding picture may take seconds, and nothing is lost with it.
        self._kill()
        self._threads.shutdown(wait=True)
        # Once more, for a worker that was being started.
        self._kill()
        for worker in self._workers:
            worker.close_pipes()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _decode(self, source: ImageSource) -> Reply:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self._preprocessing)
            self._workers.append(worker)
        reply = worker.decode(source)
        self._idle.put(worker)
        return reply


class _Worker:
    """A process that runs `finetune.images.decode_worker`; used by one thread at a time."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            # -P and PYTHONPATH: it imports what this process imports, wherever that was
            # started. A process group of its own: Ctrl-C on the terminal does not reach it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "finetune.images.decode_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,
            )
        except OSError as error:
            raise ClipsearchError(
                f"cannot start a process that decodes pictures ({error}); use fewer with --workers"
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            # Room for a whole reply, so that the worker need not wait for its reader; users
            # have a limit on the sum of these, which is no reason to stop.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # Stays in the pipe's buffer until the first picture.
        pickle.dump(preprocessing, self._requests)

    def decode(self, source: ImageSource) -> Reply:
        try:
            pickle.dump(source, self._requests)
            self._requests.flush()
            reply: Reply = pickle.load(self._replies)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._death(source) from error
        return reply

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close_pipes(self) -> None:
        for pipe in (self._requests, self._replies):
            # Half a request may be left, for a worker that is gone.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _death(self, source: ImageSource) -> ClipsearchError:
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            reason = f"was killed ({name})"
            if name == "SIGKILL":
                reason += ", most likely for want of memory"
            mend = "use fewer with --workers, or take the picture out"
        else:
            reason = f"ended with exit code {code}"
            mend = "what it printed is above"
        return ClipsearchError(f"{source}: the process that decoded it {reason}; {mend}")
