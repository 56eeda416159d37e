"""Keep equal captions, and equal images, in different batches: edge colouring of a bipartite graph.

A sample is an edge between its caption and its image, and a batch is a colour. No caption and no
image is in a batch twice where the edges that meet at a node all have different colours. With m
colours that can always be had where no node has more than m edges (König 1916), and then with
colours of equal size too (de Werra 1971), so this holds exactly, not only mostly:

    1. A caption or image of c > m samples is cut into ceil(c / m) nodes of at most m edges.
    2. Each sample that clashes is taken out, and put into a batch with a place free that has
       neither its caption nor its image.
    3. Where there is none, a path of samples that lie in two batches by turns changes sides: from
       the sample's image, to make one batch free for it; and from a batch that has become too
       large to one that is too small.

Imports without torch.
"""

from collections import defaultdict

import numpy as np

from finetune.arrays import Int64
from finetune.data.captioned_images import position_in_run

TRIES = 32


def spread_apart(
    batch_of: Int64, captions: Int64, images: Int64, *, batches: int, rng: np.random.Generator
) -> Int64:
    """Move as few samples as it takes between batches, whose sizes stay as they are.

    Args:
        batch_of: int64[s], the batch 0..batches-1 of each sample; sizes differ by one at most.
        captions: int64[s], equal for samples that may not meet.
        images: int64[s], equal for samples that may not meet either.
        batches: m.
        rng: Chooses among places that are as good.

    Returns:
        int64[s], the batch of each sample: a caption or image of c samples is in each batch
        ceil(c / m) times at most, which is once wherever c <= m.
    """
    sides = _nodes(captions, batch_of, batches), _nodes(images, batch_of, batches)
    clashing = np.union1d(*(_clashes(side, batch_of, batches) for side in sides))
    if not len(clashing):
        return batch_of
    coloring = _Coloring(batch_of, sides, clashing, batches, rng)
    for sample in rng.permutation(clashing).tolist():
        coloring.insert(sample)
    return coloring.batch_of


def _nodes(keys: Int64, batch_of: Int64, batches: int) -> Int64:
    """Return the number of each sample's key, int64[s].

    A key of more than `batches` samples is cut into several.
    """
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    nodes: Int64 = group.astype(np.int64)
    rows = np.flatnonzero(counts[group] > batches)
    if len(rows):
        # first those that are the first of their key in their batch, so that few clash
        rows = rows[np.lexsort((batch_of[rows], group[rows]))]
        turn = position_in_run(group[rows] * batches + batch_of[rows])
        rows = rows[np.lexsort((batch_of[rows], turn, group[rows]))]
        piece = position_in_run(group[rows]) // batches
        nodes[rows] += piece * len(counts)
        nodes = np.unique(nodes, return_inverse=True)[1].astype(np.int64)
    return nodes


def _clashes(nodes: Int64, batch_of: Int64, batches: int) -> Int64:
    """Return the samples before which another one of the same node is in the same batch."""
    rows = np.flatnonzero(np.bincount(nodes)[nodes] > 1)
    place = nodes[rows] * batches + batch_of[rows]
    order = np.argsort(place, kind="stable")
    again = place[order][1:] == place[order][:-1]
    clashing: Int64 = np.sort(rows[order[1:][again]])
    return clashing


class _Coloring:
    """Samples with and without a batch; those with one never clash."""

    def __init__(
        self,
        batch_of: Int64,
        sides: tuple[Int64, Int64],
        without: Int64,
        batches: int,
        rng: np.random.Generator,
    ) -> None:
        self.batch_of = batch_of.copy()
        self.batch_of[without] = -1
        self._nodes = sides
        self._of_node = tuple(_Groups(side) for side in sides)
        self._of_batch = _Groups(batch_of)
        self._moved_in: defaultdict[int, list[int]] = defaultdict(list)
        # node -> batch -> sample, of the nodes that were looked at
        self._tables: tuple[dict[int, dict[int, int]], dict[int, dict[int, int]]] = ({}, {})
        self._target = np.bincount(batch_of, minlength=batches).tolist()
        kept = np.delete(batch_of, without)
        self._size: list[int] = np.bincount(kept, minlength=batches).tolist()
        self._vacant: list[int] = rng.permutation(batch_of[without]).tolist()
        self._batches = batches
        self._rng = rng

    def insert(self, sample: int) -> None:
        """Give a sample without a batch one, and move others where it takes that."""
        of_caption, of_image = (self._table(side, sample) for side in (0, 1))
        batch = self._vacancy(of_caption, of_image)
        if batch is None:
            batch = self._free(of_caption, of_image)
        other = None
        if batch is None:
            # a node has at most as many samples as there are batches, of which this has none
            batch, other = self._free(of_caption), self._free(of_image)
            assert batch is not None
            assert other is not None
            self._swap(self._path(sample, 1, batch, other), batch, other)
        self._put(sample, batch)
        self._settle(batch)
        if other is not None:
            self._settle(other)

    def _settle(self, large: int) -> None:
        """Move one sample's worth from a batch that is too large to one that is too small."""
        if self._size[large] <= self._target[large]:
            return
        small = self._vacant[-1]
        while self._size[small] >= self._target[small]:
            self._vacant.pop()
            small = self._vacant[-1]
        samples = self._samples(large)
        start = int(self._rng.integers(len(samples)))
        for first in samples[start:] + samples[:start]:
            before = self._path(first, 0, small, large)
            if len(before) % 2 or before[-1:] == [first]:
                continue  # as many of one batch as of the other
            after = self._path(first, 1, small, large)
            if len(after) % 2 == 0:
                self._swap([*before, first, *after], large, small)
                return
        raise AssertionError("a larger batch has a path with one more sample than a smaller one")

    def _vacancy(self, *tables: dict[int, int]) -> int | None:
        """Return a batch with a place free, in none of the tables.

        None where a few tries find none.
        """
        for _ in range(TRIES):
            if not self._vacant:
                return None
            number = int(self._rng.integers(len(self._vacant)))
            batch = self._vacant[number]
            if self._size[batch] >= self._target[batch]:
                self._vacant[number] = self._vacant[-1]
                self._vacant.pop()
            elif not any(batch in table for table in tables):
                return batch
        return None

    def _free(self, *tables: dict[int, int]) -> int | None:
        """Return any batch that is in none of the tables."""
        for batch in self._rng.integers(self._batches, size=TRIES).tolist():
            if not any(batch in table for table in tables):
                return int(batch)
        free = set(range(self._batches)).difference(*tables)
        return min(free) if free else None

    def _path(self, sample: int, side: int, first: int, second: int) -> list[int]:
        """Return the samples beyond one's caption (side 0) or image (side 1).

        They lie in the two batches by turns.

        A path that comes back to the sample ends with it.
        """
        path: list[int] = []
        current, batch = sample, first
        while True:
            following = self._table(side, current).get(batch)
            if following is None:
                return path
            path.append(following)
            if following == sample:
                return path
            current, side = following, 1 - side
            batch = second if batch == first else first

    def _swap(self, samples: list[int], one: int, other: int) -> None:
        batches = [other if self.batch_of[sample] == one else one for sample in samples]
        for sample in samples:
            self._take_out(sample)
        for sample, batch in zip(samples, batches, strict=True):
            self._put(sample, batch)

    def _put(self, sample: int, batch: int) -> None:
        for side in (0, 1):
            self._table(side, sample)[batch] = sample
        self.batch_of[sample] = batch
        self._size[batch] += 1
        self._moved_in[batch].append(sample)

    def _take_out(self, sample: int) -> None:
        batch = int(self.batch_of[sample])
        for side in (0, 1):
            del self._table(side, sample)[batch]
        self.batch_of[sample] = -1
        self._size[batch] -= 1

    def _table(self, side: int, sample: int) -> dict[int, int]:
        """Return the batches of the samples that share its caption (side 0) or image (side 1)."""
        node = int(self._nodes[side][sample])
        table = self._tables[side].get(node)
        if table is None:
            members = self._of_node[side].members(node)
            placed = members[self.batch_of[members] >= 0]
            table = dict(zip(self.batch_of[placed].tolist(), placed.tolist(), strict=True))
            self._tables[side][node] = table
        return table

    def _samples(self, batch: int) -> list[int]:
        known = np.concatenate(
            (self._of_batch.members(batch), np.array(self._moved_in[batch], np.int64))
        )
        inside: list[int] = np.unique(known[self.batch_of[known] == batch]).tolist()
        return inside


class _Groups:
    """The indices of each value of an array."""

    def __init__(self, values: Int64) -> None:
        self._order = np.argsort(values, kind="stable")
        self._ends = np.cumsum(np.bincount(values))

    def members(self, value: int) -> Int64:
        """Return int64[c], ascending."""
        if value >= len(self._ends):
            return np.empty(0, np.int64)
        start = int(self._ends[value - 1]) if value else 0
        members: Int64 = self._order[start : int(self._ends[value])]
        return members
