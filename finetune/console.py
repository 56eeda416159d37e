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
# Before this, and before a tenth is done, what starts the work makes the rate a bad guide.
SETTLED_SECONDS = 15.0


class Progress:
    """Counts steps of a task and shows count, rate and time left on standard error.

    A context manager. `note` is any short text beside the bar (the loss, say). Rates count from
    the start of this run: what `done_before` holds was done by an earlier one.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show(last=True)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count steps as done, and show them when it is time."""
        self.done += count
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
        parts.append(f"{rate:,.1f}/s")
        is_settled = seconds >= SETTLED_SECONDS or 10 * self.done >= (self.total or 0)
        if self.total is not None and rate > 0 and self.done < self.total and is_settled:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        elif self.total is not None and self.done >= self.total:
            parts.append(f"in {duration(seconds)}")
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

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
