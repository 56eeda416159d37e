"""Texts in ascending order, one after another in UTF-8: found by bisection, little is loaded.

Bytes of UTF-8 sort as the code points do, so the order is that of Python's texts.
"""

import bisect
import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.sections import Array, Sections

BLOCK = 64
MOST_REMEMBERED = 65_536


class Strings:
    """The texts under a name of `Sections`."""

    def __init__(self, sections: Sections, name: str) -> None:
        self._sections = sections
        self._bytes, self._starts = f"{name}/bytes", f"{name}/starts"
        self._count = int(sections.facts["counts"][name])
        self._places: dict[bytes, int | None] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> bytes:
        """Return the text at a place, in UTF-8."""
        return self.slice(place, place + 1)[0]

    def slice(self, first: int, last: int) -> list[bytes]:
        """Return the texts from place `first` to before `last`."""
        starts = self._sections.part(self._starts, first, last + 1).tolist()
        data = self._sections.part(self._bytes, starts[0], starts[-1]).tobytes()
        base = starts[0]
        return [data[start - base : end - base] for start, end in itertools.pairwise(starts)]

    def all(self) -> list[bytes]:
        """Return all texts."""
        return self.slice(0, self._count)

    def find(self, text: bytes) -> int | None:
        """Return the place of a text; None where it is not among them."""
        try:
            return self._places[text]
        except KeyError:
            if len(self._places) >= MOST_REMEMBERED:
                self._places.clear()
            place = self._places[text] = self._find(text)
            return place

    def place_of(self, text: bytes) -> int:
        """Return the place of the first text that is not before this one, or the number of all."""
        first = max(bisect.bisect_left(self._firsts, text) - 1, 0) * BLOCK
        if first >= self._count:
            return self._count
        texts = self.slice(first, min(first + BLOCK, self._count))
        return first + bisect.bisect_left(texts, text)

    def _find(self, text: bytes) -> int | None:
        block = bisect.bisect_right(self._firsts, text) - 1
        if block < 0:
            return None
        first = block * BLOCK
        texts = self.slice(first, min(first + BLOCK, self._count))
        place = bisect.bisect_left(texts, text)
        return first + place if place < len(texts) and texts[place] == text else None

    @cached_property
    def _firsts(self) -> list[bytes]:
        """The first text of each block."""
        starts = self._sections.array(self._starts)
        data = self._sections.array(self._bytes).data
        places = np.arange(0, self._count, BLOCK)
        return [
            bytes(data[start:end])
            for start, end in zip(starts[places].tolist(), starts[places + 1].tolist(), strict=True)
        ]


def strings_as_arrays(name: str, texts: Sequence[bytes]) -> dict[str, Array]:
    """Return the arrays of `Strings` under a name.

    `facts["counts"][name]` is to be the number of the texts.
    """
    starts: npt.NDArray[np.int64] = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    small = starts.astype(np.uint32) if starts[-1] < 1 << 32 else starts
    return {f"{name}/bytes": np.frombuffer(b"".join(texts), np.uint8), f"{name}/starts": small}
