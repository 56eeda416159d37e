"""Answers that were given, for who asks the same of an index that is the same.

An answer is remembered with the moment of the index that it is of: once a feed, a change by hand,
a calibration or another index comes, all are forgotten. The images of hits are looked for on the
disk, which no moment tells of: for that no answer is given again after `KEPT_SECONDS`.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from clipsearch.search.search import Search

KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """JSON in UTF-8, and its entity tag."""

    body: bytes
    tag: str


class RememberedAnswers:
    """As many as fit into so many bytes, the most lately asked for. Safe between threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._moment: Hashable = None
        self._held: OrderedDict[Hashable, tuple[float, EncodedAnswer]] = OrderedDict()
        self._bytes = 0

    def get(self, moment: Hashable, question: Hashable) -> EncodedAnswer | None:
        """Return what was answered at this moment; None where nothing was, or long ago."""
        with self._lock:
            if moment != self._moment:
                return None
            when, answer = self._held.get(question, (0.0, None))
            if answer is not None and time.monotonic() - when > KEPT_SECONDS:
                self._forget(question)
                return None
            if answer is not None:
                self._held.move_to_end(question)
            return answer

    def keep(self, moment: Hashable, question: Hashable, answer: EncodedAnswer) -> None:
        """Remember an answer that the index gave at this moment, which is now."""
        with self._lock:
            if moment != self._moment:
                self._held.clear()
                self._moment, self._bytes = moment, 0
            self._forget(question)
            self._held[question] = (time.monotonic(), answer)
            self._bytes += len(answer.body)
            while self._bytes > self._most_bytes:
                self._forget(next(iter(self._held)))

    def _forget(self, question: Hashable) -> None:
        _, answer = self._held.pop(question, (0.0, None))
        self._bytes -= 0 if answer is None else len(answer.body)


def moment_of(search: Search) -> Hashable:
    """Return what differs once the index may answer otherwise; None where nobody can tell."""
    version = search.engine.version()
    return None if version is None else (search, search.info, version)
