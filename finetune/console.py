"""What people see of long work: a live bar on a terminal, a plain line every few seconds elsewhere.

Captions and file names are made safe to print, and marked where a match is shown.
"""

import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

PLAIN_INTERVAL_SECONDS = 5.0
LIVE_INTERVAL_SECONDS = 0.1
# The first step tells nothing of the others: what it waits for is loaded and started then.
STEPS_BEFORE_TIME_LEFT = 3
SECONDS_BEFORE_TIME_LEFT = 2.0


class Progress:
    """Counts steps of a task and shows count, rate and time left on standard error.

    A context manager. `note` is any short text beside the bar (the loss, say). Rates count from
    the start of this run: what `done_before` holds was done by an earlier one. The time left
    follows from the steps after the first, once there are a few.
    """

    def __init__(
        self,
        task: str,
        total: int | None,
        *,
        unit: str = "",
        done_before: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        self.task = task
        self.total = total
        self.unit = unit
        self.done = done_before
        self.note = ""
        self._done_before = done_before
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._quiet = quiet
        self._live = self._stream.isatty()
        self._start = clock()
        self._shown = self._start
        self._width = 0
        self._advances = 0
        self._after_first = (done_before, self._start)
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Show the bar a last time; messages may follow, and nothing is counted any more."""
        if not self._ended:
            self._ended = True
            self._show(last=True)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count steps as done, and show them when it is time."""
        self.done += count
        self._advances += 1
        if self._advances == 1:
            self._after_first = (self.done, self._clock())
        if note is not None:
            self.note = note
        wait = LIVE_INTERVAL_SECONDS if self._live else PLAIN_INTERVAL_SECONDS
        if self._clock() - self._shown >= wait:
            self._show()

    def message(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._quiet:
            return
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
        self._stream.write(text + "\n")
        self._stream.flush()

    def line(self) -> str:
        """Return the text that is shown."""
        seconds = max(self._clock() - self._start, 1e-9)
        rate = (self.done - self._done_before) / seconds
        parts = [self.task]
        if self.total is None:
            parts.append(f"{self.done:,} {self.unit}".rstrip())
        else:
            share = self.done / self.total if self.total else 1.0
            parts.append(f"{self.done:,}/{self.total:,} {self.unit}".rstrip())
            parts.append(f"{share:4.0%}")
        parts.append(f"{1 / rate:,.0f} s each" if 0 < rate < 0.1 else f"{rate:,.1f}/s")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        elif self.total is not None and self.done >= self.total:
            parts.append(f"in {duration(seconds)}")
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

    def _seconds_left(self) -> float | None:
        """Return how long the rest takes; None where there is none, or nobody can tell yet."""
        done, since = self._after_first
        done, seconds = self.done - done, self._clock() - since
        if self.total is None or self.done >= self.total or done <= 0:
            return None
        if self._advances < STEPS_BEFORE_TIME_LEFT or seconds < SECONDS_BEFORE_TIME_LEFT:
            return None
        return (self.total - self.done) * seconds / done

    def _show(self, last: bool = False) -> None:
        if self._quiet:
            return
        self._shown = self._clock()
        text = self.line()
        if self._live:
            self._stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = 0 if last else len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Return seconds as people write them: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


# Start and end of text[start:end].
Span = tuple[int, int]


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, bool]]:
    """Return `text` cut at the spans, which are in order: (piece, whether it is a match).

    Joined, the pieces are the text again.
    """
    cut: list[tuple[str, bool]] = []
    position = 0
    for start, end in spans:
        if start > position:
            cut.append((text[position:start], False))
        cut.append((text[start:end], True))
        position = end
    if position < len(text):
        cut.append((text[position:], False))
    return cut


# Joiners inside emoji and scripts: format characters that do no harm.
_HARMLESS = frozenset("\u200c\u200d\ufeff\u00ad")
_UNSAFE_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str) -> str:
    r"""Return `text` on one line, with every control character written out (\x1b, \u202e).

    A caption may hold escape sequences that would recolour, erase or retitle the terminal, or
    characters that reverse the order of what follows. Line breaks and tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if character in _HARMLESS or unicodedata.category(character) not in _UNSAFE_CATEGORIES:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
