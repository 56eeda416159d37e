"""Decode and resize images, here or ahead in worker processes, in order.

The workers are started as programs of their own, never forked: a fork copies the locks of torch's
and onnxruntime's threads, and may hang on them. Each is led by a thread of this process over its
stdin and stdout, and leaves pixels in memory without a name (`SharedPixels`), so that there is
nothing (a named memory, a helper process) to be left behind: where this process dies, even of kill
-9, its pipes close and the workers end.

Imports without torch.
"""

import contextlib
import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType
from typing import Self, TypeVar

from finetune.cores import decoding_cores
from finetune.errors import ClipsearchError, UsageError
from finetune.images.decode import CroppedSource, Decoded, decode
from finetune.images.decode_requests import Reply, Work
from finetune.images.open import count_pixels
from finetune.images.preprocessing import Preprocessing
from finetune.images.shared_pixels import SharedPixels
from finetune.images.source import ImageSource

T = TypeVar("T")
Wanted = ImageSource | CroppedSource

# Images that a worker is asked for at once: to wake it takes longer than to decode a small one.
REQUEST = 16
REQUESTS_PER_WORKER = 4
PROBE = 32
# Starting workers costs about a second, so a job that takes no longer stays in this process.
WORTH_WORKERS_SECONDS = 3.0
# So many images are decoded here before the first worker has started, if they are of 640x480.
FEW_IMAGES = 64
FEW_PIXELS = FEW_IMAGES * 640 * 480
EXIT_SECONDS = 5.0
PIPE_BYTES = 1 << 20


def decode_ahead(
    items: Iterable[tuple[T, ImageSource]],
    preprocessing: Preprocessing,
    *,
    workers: int | None,
    ahead: int = 128,
    device: str = "cpu",
) -> Generator[tuple[T, Decoded], None, None]:
    """Read, decode, resize and crop images, in the order given.

    Args:
        items: Key and image; read by the caller's thread, at most `ahead` before the image
            that is given back.
        preprocessing: Of the encoder.
        workers: Processes, started with the first image; 0 decodes in this one. None looks at the
            first images: none for a few, unless they are large, else as many as
            `finetune.cores.decoding_cores`.
        ahead: Images decoded or waiting; each takes height x width x 3 bytes.
        device: Where the images are embedded.

    Closing the generator kills the workers. Raises UsageError for numbers out of range, and,
    while it runs, ClipsearchError where a worker was killed (most often: no memory left).
    """
    if (workers is not None and workers < 0) or ahead < 1:
        raise UsageError(f"workers={workers} and ahead={ahead}: take at least 0 and 1")
    return _decode_ahead(iter(items), preprocessing, workers, ahead, device)


def _decode_ahead(
    items: Iterator[tuple[T, ImageSource]],
    preprocessing: Preprocessing,
    workers: int | None,
    ahead: int,
    device: str,
) -> Generator[tuple[T, Decoded], None, None]:
    keys: deque[T] = deque()
    remaining = items
    if workers is None:
        first = list(islice(items, min(FEW_IMAGES, ahead)))
        remaining = chain(first, items)
        are_few = len(first) < min(FEW_IMAGES, ahead)
        are_small = are_few and _pixels_below([source for _, source in first], FEW_PIXELS)
        workers = 0 if are_small else decoding_cores(device)
    size = _request_size(ahead, workers)

    def batches() -> Iterator[list[Wanted]]:
        while batch := list(islice(remaining, size)):
            keys.extend(key for key, _ in batch)
            yield [source for _, source in batch]

    with Decoder(preprocessing, workers) as decoder:
        for decoded in decoder.decode_batches(batches(), ahead // size):
            for image in decoded:
                yield keys.popleft(), image


class Decoder:
    """Gives for each image its pixels, or the reason why it cannot be read.

    A context manager: leaving it ends the workers.
    """

    def __init__(
        self, preprocessing: Preprocessing, workers: int | None, device: str = "cpu"
    ) -> None:
        """`workers` processes; 0 decodes in this one; None decides by how long images take.

        `device` is where they are embedded.
        """
        self.preprocessing = preprocessing
        self._workers = workers
        self._device = device
        self._pool: _Pool | None = None

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
            self._pool.close()
            self._pool = None

    def decode(self, sources: Sequence[Wanted]) -> Iterator[Decoded]:
        """Yield each source's pixels, or the reason why there are none, in order.

        Raises ClipsearchError where a worker was killed.
        """
        done = 0
        if self._workers is None:
            started = time.perf_counter()
            for source in islice(sources, PROBE):
                yield decode(source, self.preprocessing)
                done += 1
            expected = (time.perf_counter() - started) / max(done, 1) * (len(sources) - done)
            if expected > WORTH_WORKERS_SECONDS:
                self._workers = decoding_cores(self._device)
        size = REQUEST if self._workers else 1
        batches = (sources[start : start + size] for start in range(done, len(sources), size))
        for batch in self.decode_batches(batches, REQUESTS_PER_WORKER * (self._workers or 1)):
            yield from batch

    def decode_batches(
        self, batches: Iterable[Sequence[Wanted]], ahead: int
    ) -> Generator[list[Decoded], None, None]:
        """Decode by batch, while at most `ahead` of them are decoded or waiting.

        All workers share a batch, as long as it has an image for each.
        """
        if not self._workers:
            for batch in batches:
                yield [decode(source, self.preprocessing) for source in batch]
            return
        if self._pool is None:
            self._pool = _Pool(self.preprocessing, self._workers)
        remaining = iter(batches)
        waiting: deque[list[Future[list[Decoded]]]] = deque()
        try:
            while True:
                for batch in islice(remaining, ahead - len(waiting)):
                    size = _request_size(ahead * len(batch), self._workers)
                    starts = range(0, len(batch), size)
                    waiting.append([self._pool.submit(batch[at : at + size]) for at in starts])
                if not waiting:
                    return
                decoded = [image for reply in waiting[0] for image in reply.result()]
                waiting.popleft()
                yield decoded
        finally:
            for replies in waiting:
                for reply in replies:
                    reply.cancel()


def _pixels_below(sources: Iterable[ImageSource], limit: int) -> bool:
    """Return whether all of them together have fewer pixels.

    Those that cannot be read have none.
    """
    left = limit
    for source in sources:
        left -= count_pixels(source)
        if left <= 0:
            return False
    return True


def _request_size(images: int, workers: int) -> int:
    """Return how many to ask for at once, so that so many images keep every worker busy."""
    return max(1, min(REQUEST, images // (REQUESTS_PER_WORKER * max(workers, 1))))


class _Pool:
    """As many threads as workers; a thread starts a worker where none is idle."""

    def __init__(self, preprocessing: Preprocessing, workers: int) -> None:
        self._preprocessing = preprocessing
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="clipsearch-decode")
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def submit(self, sources: Sequence[Wanted]) -> Future[list[Decoded]]:
        return self._threads.submit(self._decode, sources)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        # Killed, not asked: a decoding image may take seconds, and nothing is lost with it.
        self._kill()
        self._threads.shutdown(wait=True)
        # Once more, for a worker that was being started.
        self._kill()
        for worker in self._workers:
            worker.close_pipes()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _decode(self, sources: Sequence[Wanted]) -> list[Decoded]:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self._preprocessing)
            self._workers.append(worker)
        replies = worker.decode(sources)
        self._idle.put(worker)
        return replies


class _Worker:
    """A process that runs `finetune.images.decode_worker`; used by one thread at a time."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._shared = SharedPixels.make(REQUEST, preprocessing)
        memory = None if self._shared is None else self._shared.descriptor
        try:
            begun, write_begun = os.pipe()
            # Read when a request is answered, or when the worker is dead.
            os.set_blocking(begun, False)
            self._begun = os.fdopen(begun, "rb", buffering=0)
            try:
                # -P and PYTHONPATH: it imports what this process imports, wherever that was
                # started. A process group of its own: Ctrl-C on the terminal does not reach it.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "finetune.images.decode_worker", str(write_begun)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
                    process_group=0,
                    pass_fds=(write_begun,) if memory is None else (write_begun, memory),
                )
            finally:
                os.close(write_begun)
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
        # Stays in the pipe's buffer until the first image.
        pickle.dump(Work(preprocessing, memory, REQUEST), self._requests)

    def decode(self, sources: Sequence[Wanted]) -> list[Decoded]:
        try:
            pickle.dump(sources, self._requests)
            self._requests.flush()
            replies: list[Reply] = []
            while len(replies) < len(sources):
                replies += pickle.load(self._replies)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._death(sources) from error
        self._begun.read(len(sources))
        return [self._with_pixels(reply) for reply in replies]

    def _with_pixels(self, reply: Reply) -> Decoded:
        if reply.slot is None or self._shared is None:
            return reply.decoded
        return replace(reply.decoded, pixels=self._shared.take(reply.slot))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close_pipes(self) -> None:
        for pipe in (self._requests, self._replies, self._begun):
            # Half a request may be left, for a worker that is gone.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        if self._shared is not None:
            self._shared.close()

    def _death(self, sources: Sequence[Wanted]) -> ClipsearchError:
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        begun = len(self._begun.read(len(sources)) or b"")
        source = sources[max(begun - 1, 0)]
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
