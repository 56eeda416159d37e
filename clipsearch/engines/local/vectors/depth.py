"""How many vectors are compared exactly so that nearly none of the nearest is missed.

It is measured on the index's own vectors: made-up queries near some of them are answered exactly,
and then it is seen how far down the codes put the vectors that were found. What is wanted is a
recall of RECALL among the first COUNTS; the numbers hold until the index has grown by GROWTH.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.vectors import kernels
from clipsearch.engines.local.vectors.blocks import VectorStore
from clipsearch.engines.local.vectors.codes import Question
from clipsearch.engines.local.vectors.kernels import Slots, Vectors

COUNTS = (10, 100, 1000)
# Among the first ten, hundred and thousand: what the goal asks for (.99 and .95), and something for
# the chance of a sample. The signs alone are asked for more than the steps after them.
RECALL = (0.994, 0.962, 0.947)
RECALL_BY_SIGNS = (0.997, 0.978, 0.965)
GROWTH = 1.5
QUERIES = 48
# Of a query from the vector it is near to, in the latter's length: a caption of a picture is about
# as far from it as the second.
NOISE = (0.7, 1.2)
MARGIN = 1.15


@dataclass(frozen=True, slots=True)
class Depths:
    """How deep to look for the first of COUNTS.

    Attributes:
        vectors: In the index when it was measured.
        written: That had ever been written by then.
        by_signs: How many that are near by their signs go on.
        by_steps: How many of these, by the query's steps, are compared exactly.
    """

    vectors: int
    written: int
    by_signs: tuple[int, ...]
    by_steps: tuple[int, ...]

    def of(self, count: int, vectors: int) -> tuple[int, int]:
        """Return the depths (by signs, by steps) for the first `count` of `vectors`."""
        growth = max(1.0, vectors / max(self.vectors, 1))
        found = []
        for depths in (self.by_signs, self.by_steps):
            depth = float(np.exp(np.interp(np.log(count), np.log(COUNTS), np.log(depths))))
            if count > COUNTS[-1]:
                depth *= count / COUNTS[-1]
            found.append(int(depth * growth) + count)
        return found[0], min(found)

    def still_hold(self, vectors: int, written: int) -> bool:
        """Return whether the index has about as many vectors as when measured, and about those."""
        grown = self.vectors / GROWTH <= vectors <= self.vectors * GROWTH
        return grown and written - self.written <= self.vectors * (GROWTH - 1)


def measure(store: VectorStore, live: npt.NDArray[np.bool_], written: int) -> Depths:
    """Measure on the vectors in `store` whose slots are `live`, bool[store.size].

    `written` is the number of vectors that were ever written.
    """
    kernels.load()
    queries = _queries(store, np.flatnonzero(live))
    truths = _nearest(store, live, queries)
    distances = np.full(store.size, np.iinfo(np.uint16).max, np.uint16)
    by_signs = []
    for query, truth in zip(queries, truths, strict=True):
        _all_distances(store, Question.of(query), live, distances)
        before = np.cumsum(np.bincount(distances[live]))
        by_signs.append(before[distances[truth]])
    signs = _depths(by_signs, RECALL_BY_SIGNS)
    by_steps: list[npt.NDArray[np.int64]] = []
    for query, truth in zip(queries, truths, strict=True):
        question = Question.of(query)
        _all_distances(store, question, live, distances)
        near = np.flatnonzero(distances <= _limit(distances[live], signs[-1]))
        estimates = np.empty(len(near), np.float32)
        for block, at in store.by_block(near):
            estimates[at] = block.codes.estimates(question, near[at] - block.first)
        position = np.full(store.size, int(live.sum()), np.int64)
        position[near[np.argsort(-estimates)]] = np.arange(1, len(near) + 1)
        by_steps.append(position[truth])
    return Depths(int(live.sum()), written, signs, _depths(by_steps, RECALL))


def _limit(distances: npt.NDArray[np.uint16], count: int) -> int:
    place = min(count, len(distances)) - 1
    return int(np.partition(distances, place)[place])


def _depths(
    positions: Sequence[npt.NDArray[np.integer]], recalls: Sequence[float]
) -> tuple[int, ...]:
    """Return the least depths, never falling, at which the first of COUNTS have these recalls."""
    depths = []
    for count, recall in zip(COUNTS, recalls, strict=True):
        found = np.sort(np.concatenate([each[:count] for each in positions]))
        depths.append(int(found[int(np.ceil(recall * len(found))) - 1] * MARGIN) + 1)
    return tuple(np.maximum.accumulate(depths).tolist())


def _queries(store: VectorStore, live: Slots) -> Vectors:
    random = np.random.default_rng(0)
    chosen = random.choice(live, (3, QUERIES))
    source, one, other = (store.gathered(each) for each in chosen)
    noise = one - other
    length = np.linalg.norm(noise, axis=1, keepdims=True)
    amount = np.resize(np.array(NOISE, np.float32), QUERIES)[:, None]
    queries = source + noise * (amount / np.maximum(length, 1e-6))
    unit: Vectors = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-6)
    return unit.astype(np.float32)


def _nearest(
    store: VectorStore, live: npt.NDArray[np.bool_], queries: Vectors
) -> list[npt.NDArray[np.int64]]:
    """Return the slots of the COUNTS[-1] nearest of each query, best first."""
    slots: list[list[Slots]] = [[] for _ in queries]
    cosines: list[list[Vectors]] = [[] for _ in queries]
    for first, vectors in chain.from_iterable(block.runs() for block in store.blocks):
        products = (vectors @ queries.T).T
        products[:, ~live[first : first + len(vectors)]] = -np.inf
        count = min(COUNTS[-1], len(vectors))
        for place, row in enumerate(products):
            best = np.argpartition(-row, count - 1)[:count]
            slots[place].append(best + first)
            cosines[place].append(row[best])
    found = []
    for near, scores in zip(slots, cosines, strict=True):
        joined, scored = np.concatenate(near), np.concatenate(scores)
        order = np.argsort(-scored)[: COUNTS[-1]]
        found.append(joined[order[scored[order] > -np.inf]])
    return found


def _all_distances(
    store: VectorStore,
    question: Question,
    live: npt.NDArray[np.bool_],
    out: npt.NDArray[np.uint16],
) -> None:
    for block in store.blocks:
        block.codes.distances(question, out[block.first : block.end])
    out[~live] = np.iinfo(np.uint16).max
