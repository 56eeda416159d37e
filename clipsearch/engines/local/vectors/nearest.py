"""The nearest vectors, through their codes: candidates, each of which is then compared exactly."""

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors.blocks import VectorStore
from clipsearch.engines.local.vectors.codes import WORD_BITS, Question
from clipsearch.engines.local.vectors.kernels import Slots, Vectors

FARTHEST = np.iinfo(np.uint16).max
# Every so many distances, for a first guess of how near the nearest are.
_STRIDE = 61
# So many times as many as are wanted are looked for by the guess, and taken without a second look.
_PROBABLY = 1.15
_ENOUGH = 1.1


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
    ) -> None:
        """Measure the distance of every slot that is `allowed`; None allows all."""
        self._store = store
        self._question = Question.of(vector)
        self.signs = WORD_BITS * len(self._question.signs)
        self._covered = sum(block.count for block in store.blocks)
        whole = self._covered == store.size
        self.distances = (
            np.empty(store.size, np.uint16) if whole else np.full(store.size, FARTHEST, np.uint16)
        )

        for block in store.blocks:
            out = self.distances[block.first : block.end]
            block.codes.distances(self._question, out)
            if allowed is not None:
                out[~allowed[block.first : block.end]] = FARTHEST

    def nearest(self, by_signs: int, by_steps: int) -> Slots:
        """Return about `by_steps` slots, ascending: the nearest by the query's steps.

        Of `by_signs` that are near by their signs alone.
        """
        near = self._near_by_signs(by_signs)
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

    def _near_by_signs(self, wanted: int) -> Slots:
        """Return at least `wanted` slots, ascending, or all that may be found."""
        sample = np.sort(self.distances[::_STRIDE])
        share = wanted / max(len(self.distances), 1)
        place = min(int(share * len(sample) * _PROBABLY), len(sample) - 1)
        limit = min(int(sample[place]), self.signs)
        near: Slots = np.flatnonzero(self.distances <= limit)
        while len(near) < wanted and limit < self.signs:
            limit += 1
            near = np.flatnonzero(self.distances <= limit)
        if len(near) <= wanted * _ENOUGH:
            return near
        distances = self.distances[near]
        nearest: Slots = near[distances <= np.partition(distances, wanted - 1)[wanted - 1]]
        return nearest
