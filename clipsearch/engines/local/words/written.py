"""The written words of each segment, made of the captions where an earlier version wrote none."""

from collections.abc import Callable, Sequence

import numpy as np

from clipsearch.engines.local.collection import Part
from clipsearch.engines.local.segments.words import Words, words_of

Captions = Callable[[Sequence[int]], Sequence[Sequence[str]]]
"""The captions of rows."""

_ROWS_AT_ONCE = 10_000


def written_words(part: Part, captions: Captions) -> Words:
    """Return the written words of a part; `captions` are of rows in it.

    Those of a segment of an earlier version are read once, and kept in memory: that takes as long
    as reading its documents. A merge writes them.
    """
    if part.segment.words is None:
        held: list[Sequence[str]] = [()] * part.rows
        rows = np.flatnonzero(part.kept).tolist()
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            for row, own in zip(some, captions(some), strict=True):
                held[row] = own
        part.segment.words = words_of(held)
    return part.segment.words
