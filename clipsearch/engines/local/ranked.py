"""Hits in order, before their documents are read."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.metadata import Mask
from clipsearch.ranking import RowNumbers, Scores


@dataclass(frozen=True, slots=True)
class Ranked:
    """Hits in order, with what a page tells about them; arrays of the same length.

    `matches` are what facets count; None counts every document.
    """

    rows: RowNumbers
    scores: Scores
    bm25: Scores | None
    cosine: Scores | None
    total: int
    matches: Callable[[], Mask | None] = lambda: None
    notes: tuple[str, ...] = ()
    candidates: int | None = None
    at_least: bool = False
    more: npt.NDArray[np.int64] | None = None

    def cut(self, start: int, end: int) -> "Ranked":
        """Return the hits from `start` to `end`."""
        part = slice(start, end)
        return replace(
            self,
            rows=self.rows[part],
            scores=self.scores[part],
            bm25=None if self.bm25 is None else self.bm25[part],
            cosine=None if self.cosine is None else self.cosine[part],
            more=None if self.more is None else self.more[part],
        )
