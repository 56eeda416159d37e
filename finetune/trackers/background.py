"""Trackers that can neither stop nor hold up training.

Each tracker lives in a thread of its own: it is started there, writes there and finishes there.
`log` only puts values into its queue. Whatever is raised in the thread, or a queue that runs full
since the tracker hangs, ends that tracker with one warning. Warnings are given from the thread
that trains, at its next call.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from finetune.text.masking import masked
from finetune.trackers.run import TrackedRow, Tracker

START_SECONDS = 15.0
FINISH_SECONDS = 60.0
# What an interrupted run waits: whoever pressed Ctrl-C wants it to end.
INTERRUPTED_SECONDS = 10.0
# Rows that wait for a tracker: hours of a large model's steps, minutes of a tiny one's.
QUEUED_ROWS = 20_000
MOST_ROWS_AT_ONCE = 500
FLUSH_SECONDS = 2.0
POLL_SECONDS = 0.01


class BackgroundTracker:
    """A tracker in a thread of its own.

    Attributes:
        name: As the user asked for it.
        measured: What its `finish` returned.
    """

    def __init__(
        self, name: str, start: Callable[[], Tracker], queued_rows: int = QUEUED_ROWS
    ) -> None:
        self.name = name
        self.measured: dict[str, Any] = {}
        self._start = start
        self._rows: queue.Queue[TrackedRow | None] = queue.Queue(queued_rows)  # None is the end
        self._summary: Mapping[str, float] = {}
        self._completed = False
        self._is_late = False
        self._started = threading.Event()
        self._given_up = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def log(self, row: TrackedRow) -> None:
        """Hand the row over, at once; without effect once the tracker is given up."""
        self._put(row)

    def wait_started(self, seconds: float) -> None:
        """Wait until it has started or failed, at most so long."""
        self._started.wait(seconds)

    def wait_written(self, seconds: float) -> None:
        """Wait until every row is recorded, at most so long; one that was late is not waited for
        again before it has caught up.
        """
        if self._is_late and self._rows.unfinished_tasks:
            return
        deadline = time.monotonic() + seconds
        while self._rows.unfinished_tasks and not self._given_up.is_set():
            if time.monotonic() >= deadline:
                self._is_late = True
                return
            time.sleep(POLL_SECONDS)
        self._is_late = False

    def end(self, summary: Mapping[str, float], *, completed: bool) -> None:
        """Ask it to write what is queued and to finish."""
        self._summary, self._completed = summary, completed
        self._put(None)

    def wait_ended(self, seconds: float) -> None:
        """Wait until it has finished; one that takes longer is given up."""
        self._thread.join(max(seconds, 0))
        if self._thread.is_alive():
            self.give_up("it did not finish in time, its last values may be missing")

    def give_up(self, reason: str) -> None:
        """Write nothing more to it, for this reason; the first one counts."""
        if not self._given_up.is_set():
            self._failure = reason
            self._given_up.set()

    def take_failure(self) -> str | None:
        """Return why it was given up, once."""
        failure, self._failure = self._failure, None
        return failure

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            tracker = self._start()
            self._started.set()
            while not self._given_up.is_set():
                rows, ended = self._take()
                if rows:
                    tracker.log(rows)
                for _ in rows:
                    self._rows.task_done()
                if ended:
                    self.measured = tracker.finish(self._summary, completed=self._completed)
                    return
        except BaseException as error:  # some libraries call sys.exit
            self.give_up(_reason(error))
        finally:
            self._started.set()
        if tracker is not None:
            with suppress(BaseException):  # it has failed before; files may be open
                tracker.finish({}, completed=False)

    def _put(self, row: TrackedRow | None) -> None:
        if self._given_up.is_set():
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self.give_up(f"it did not take {self._rows.maxsize:,} rows in time")

    def _take(self) -> tuple[list[TrackedRow], bool]:
        """Wait for a row, then take those that are there too; whether the end is among them."""
        rows: list[TrackedRow] = []
        row = self._rows.get()
        while row is not None:
            rows.append(row)
            if len(rows) == MOST_ROWS_AT_ONCE or self._rows.empty():
                return rows, False
            row = self._rows.get()
        return rows, True


class Trackers:
    """All trackers of a run. A context manager: leaving it finishes what is not finished yet, as
    interrupted.
    """

    def __init__(
        self,
        trackers: Sequence[BackgroundTracker],
        warn: Callable[[str], None],
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._trackers = tuple(trackers)
        self._warn = warn
        self._finish_seconds = finish_seconds
        self._finished = False
        self._report()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand values to every tracker, without waiting for any.

        Args:
            step: Steps done; never less than before.
            values: By name, as the columns of history.csv are called.
        """
        row = step, dict(values)
        for tracker in self._trackers:
            tracker.log(row)
        self._report()

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all is recorded, at most so long for each tracker.

        For the moment before a checkpoint: a run that is killed and resumed does not log again
        what came before its checkpoint.
        """
        for tracker in self._trackers:
            tracker.wait_written(seconds)
        self._report()

    def finish(self, summary: Mapping[str, float]) -> dict[str, Any]:
        """Write the final figures and everything that waits, for at most `finish_seconds`.

        Returns what trackers measured: with carbon `kg_co2eq`, `kwh` and `seconds` of the run and
        of those that it resumed, and `region`; empty without.
        """
        return self._finish(dict(summary), self._finish_seconds, completed=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish({}, min(self._finish_seconds, INTERRUPTED_SECONDS), completed=False)

    def _finish(
        self, summary: Mapping[str, float], seconds: float, *, completed: bool
    ) -> dict[str, Any]:
        if self._finished:
            return {}
        self._finished = True
        deadline = time.monotonic() + seconds
        for tracker in self._trackers:
            tracker.end(summary, completed=completed)
        measured: dict[str, Any] = {}
        for tracker in self._trackers:
            tracker.wait_ended(deadline - time.monotonic())
            measured |= tracker.measured
        self._report()
        return measured

    def _report(self) -> None:
        for tracker in self._trackers:
            if (failure := tracker.take_failure()) is not None:
                self._warn(masked(f"{tracker.name}: {failure}; training goes on without it"))


def start_background(
    starts: Mapping[str, Callable[[], Tracker]], seconds: float
) -> list[BackgroundTracker]:
    """Start all at the same time; wait at most so long for them."""
    trackers = [BackgroundTracker(name, start) for name, start in starts.items()]
    deadline = time.monotonic() + seconds
    for tracker in trackers:
        tracker.wait_started(max(deadline - time.monotonic(), 0))
    return trackers


def _reason(error: BaseException) -> str:
    """Return one line of an error, which may hold a page."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
