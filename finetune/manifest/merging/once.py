"""Whether each of many texts comes once, in 8 bytes a text."""

from array import array
from collections.abc import Iterable

import numpy as np

FIRST_LOOK = 4096


class Once:
    """Hashes of texts; two texts of one hash are taken for the same."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._next_look = FIRST_LOOK

    def add(self, text: str) -> bool:
        """Put a text in; False where one has been found to come again.

        That is looked for at each doubling alone, and by `are_all_different`.
        """
        self._hashes.append(hash(text))
        if len(self._hashes) < self._next_look:
            return True
        self._next_look *= 2
        return self.are_all_different()

    def add_all(self, texts: Iterable[str]) -> bool:
        """Put texts in; False where one has been found to come again, as with `add`."""
        self._hashes.extend(map(hash, texts))
        if len(self._hashes) < self._next_look:
            return True
        while self._next_look <= len(self._hashes):
            self._next_look *= 2
        return self.are_all_different()

    def are_all_different(self) -> bool:
        """Return whether no two texts so far are the same."""
        hashes = np.sort(np.frombuffer(self._hashes, np.int64)) if self._hashes else np.empty(0)
        return not bool((hashes[1:] == hashes[:-1]).any())
