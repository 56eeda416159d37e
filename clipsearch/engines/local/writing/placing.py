"""Where vectors are written: in slots that are free, and in new ones behind."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.collection import NOBODY, Collection
from clipsearch.engines.local.store import State
from clipsearch.engines.local.vectors.blocks import BLOCK, Block

Slots = npt.NDArray[np.int64]


class Placing:
    """Gives out slots, for as long as nobody else writes.

    A slot comes back only after the commit by which its document went, so that what is killed
    before leaves every vector that the index has.
    """

    def __init__(
        self, blocks: list[Block], free: Slots, next_number: int, taken: frozenset[int]
    ) -> None:
        """`taken` are places that no new block may have."""
        self._blocks = {block.place: block for block in blocks}
        self._free = free
        self._taken = taken
        self._changed: dict[int, Block] = {}
        self.next_number = next_number

    @classmethod
    def of(cls, state: State, collection: Collection, without: set[int] | None = None) -> "Placing":
        """Find what is free in an index, leaving out the blocks at the places `without`."""
        blocks = [block for block in state.blocks if block.place not in (without or set())]
        free = [
            block.first
            + np.flatnonzero(
                collection.row_of_slot[block.first : block.first + block.used] == NOBODY
            )
            for block in blocks
        ]
        slots = np.concatenate(free) if free else np.zeros(0, np.int64)
        taken = frozenset(block.place for block in state.blocks)
        return cls(blocks, slots, state.next_number, taken)

    def take(self, count: int) -> Slots:
        """Take so many slots; they ascend."""
        parts = [self._free[:count]]
        self._free = self._free[count:]
        missing = count - len(parts[0])
        while missing:
            block = self._open()
            step = min(missing, BLOCK - block.used)
            parts.append(np.arange(step) + block.first + block.used)
            self._set(replace(block, used=block.used + step))
            missing -= step
        taken: Slots = np.sort(np.concatenate(parts)).astype(np.int64)
        return taken

    def give_back(self, slots: Slots) -> None:
        """Free these slots: the commit by which their documents went is done."""
        self._free = np.sort(np.concatenate([self._free, slots]))

    def by_block(self, slots: Slots) -> Iterator[tuple[Block, Slots, Slots]]:
        """Yield (block, places in `slots`, places in the block) of each block that has any."""
        for place in np.unique(slots // BLOCK).tolist():
            at = np.flatnonzero(slots // BLOCK == place)
            yield self._blocks[place], at, slots[at] - place * BLOCK

    def changed(self) -> list[Block]:
        """Return the blocks that are new or longer since this was asked last."""
        found = list(self._changed.values())
        self._changed = {}
        return found

    def _open(self) -> Block:
        for block in self._blocks.values():
            if block.used < BLOCK:
                return block
        taken = self._taken | set(self._blocks)
        place = next(place for place in range(len(taken) + 1) if place not in taken)
        block = Block(place, self.next_number, self.next_number + 1, 0)
        self.next_number += 2
        self._set(block)
        return block

    def _set(self, block: Block) -> None:
        self._blocks[block.place] = block
        self._changed[block.place] = block
