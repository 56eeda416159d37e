"""The index that a service answers from: what its name leads to, also where that becomes another.

A name may be a symbolic link. While it leads to one folder, that is asked; once it leads to another
index, that one is opened beside it, its encoder loaded, and only then asked. Nobody waits, and what
was begun is answered by the index that it began with.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clipsearch.engines import index_exists, is_remote
from clipsearch.search.search import Search
from finetune.errors import ClipsearchError

# An answer that began before the other index took over is given by then.
LEAVE_SECONDS = 60.0


class ServedIndex:
    """An open index, by its name. `follow` is for one thread, all else for any.

    Attributes:
        search: Of the index that the name leads to; another one after `follow` found it.
    """

    def __init__(self, name: str, open_search: Callable[[str], Search]) -> None:
        """Open what `name` leads to. Raises EngineError, EncoderError as `open_search` does."""
        self._name = name
        self._open = open_search
        self._place = _place_of(name)
        self._refused = ""
        self._left: list[tuple[float, Search]] = []
        self.search = open_search(self._place)

    def follow(self) -> bool:
        """Learn what others have changed; returns whether another index is asked from now on.

        Raises EngineError where a Vespa does not answer.
        """
        self._close_left(time.monotonic())
        place = _place_of(self._name)
        if place == self._place or not index_exists(place):
            self.search.refresh()
            return False
        try:
            self._take(place)
        except ClipsearchError as error:
            if place != self._refused:
                message = f"{self._name} leads to {place} now, which cannot be served: {error}"
                print(f"{message}; {self._place} is served on", file=sys.stderr, flush=True)
            self._refused = place
            return False
        print(f"{self._name} leads to {place} now: it is served", file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        """Close all that is open."""
        self._close_left(float("inf"))
        self.search.close()

    def _take(self, place: str) -> None:
        search = self._open(place)
        try:
            if search.has_encoder:
                search.encoder.encode_texts(["warm"])
        except BaseException:
            search.close()
            raise
        self._left.append((time.monotonic() + LEAVE_SECONDS, self.search))
        self.search, self._place, self._refused = search, place, ""

    def _close_left(self, now: float) -> None:
        while self._left and self._left[0][0] <= now:
            self._left.pop(0)[1].close()


def _place_of(name: str) -> str:
    """Return where a link leads to; a name that is none as it is."""
    if is_remote(name) or not Path(name).is_symlink():
        return name
    return os.path.realpath(name)
