"""The nearest vectors, through their codes: candidates, each of which is then compared exactly."""

from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors.blocks import HeldBlock, VectorStore
from clipsearch.engines.local.vectors.codes import WORD_BITS, Question, Slots, Vectors

FARTHEST = np.iinfo(np.uint16).max
# Every so many distances, for a first guess of how near the nearest are.
_STRIDE = 61
# More than were asked for are taken rather than looked again.
_ENOUGH = 1.3


class Comparison:
    """A query compared with all codes.

    Attributes:
        distances: uint16 of every slot; FARTHEST where none is to be found.
        signs: The largest that a distance may be.
    """

    def __init__(
        self,
        store: VectorStore,
        vector: Vectors,
        allowed: npt.NDArray[np.bool_] | None = None,
        threads: Executor | None = None,
    ) -> None:
        """Measure the distance of every slot that is `allowed`; None allows all."""
        self._store = store
        self._question = Question.of(vector)
        self.signs = WORD_BITS * len(self._question.signs)
        self._covered = sum(len(block.vectors) for block in store.blocks)
        whole = self._covered == store.size
        self.distances = (
            np.empty(store.size, np.uint16) if whole else np.full(store.size, FARTHEST, np.uint16)
        )

        def compare(block: HeldBlock) -> None:
            out = self.distances[block.first : block.end]
            block.codes.distances(self._question, out)
            if allowed is not None:
                out[~allowed[block.first : block.end]] = FARTHEST

        if threads is None or len(store.blocks) == 1:
            for block in store.blocks:
                compare(block)
        else:
            list(threads.map(compare, store.blocks))

    def nearest(self, by_signs: int, by_steps: int) -> Slots:
        """Return about `by_steps` slots, ascending: the nearest by the query's steps.

        Of `by_signs` that are near by their signs alone.
        """
        near = np.flatnonzero(self.distances <= self._limit(by_signs))
        if len(near) <= by_steps:
            return near
        estimates = self.estimates(near)
        kept = np.argpartition(-estimates, by_steps - 1)[:by_steps]
        return near[np.sort(kept)]

    def estimates(self, slots: Slots) -> npt.NDArray[np.float32]:
        """Return a float32 a slot that rises with the cosine, about linearly."""
        found = np.empty(len(slots), np.float32)
        for block, at in self._store.by_block(slots):
            found[at] = block.codes.estimates(self._question, slots[at] - block.first)
        return found

    def _limit(self, wanted: int) -> int:
        """Return a distance that at least `wanted` slots do not pass, or all that may be found."""
        sample = np.sort(self.distances[::_STRIDE])
        place = min(int(wanted / max(len(self.distances), 1) * len(sample)), len(sample) - 1)
        limit = min(int(sample[place]), self.signs)
        count = self._within(limit)
        while count > wanted * _ENOUGH and limit > 0:
            fewer = self._within(limit - 1)
            if fewer < wanted:
                break
            limit, count = limit - 1, fewer
        while count < wanted and limit < self.signs:
            limit += 1
            count = self._within(limit)
        return limit

    def _within(self, limit: int) -> int:
        return int(np.count_nonzero(self.distances <= limit))
