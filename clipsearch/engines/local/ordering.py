"""Rows in another order than that of their scores: by id, by path, by a number.

Segments are in the order of ids, so the first by id are merged from them, and no more ids are read
than are wanted. A number is compared for every row that was found. Paths stand in the documents
alone: to sort by them, each document that was found is read.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.segments.metadata import Mask
from clipsearch.ranking import RowNumbers, Scores
from clipsearch.sorting import Sort

_READ_AT_ONCE = 5_000


class Found(Protocol):
    """A query whose rows are found (`search`)."""

    collection: Collection
    last: int

    def documents(self, rows: Sequence[int], /) -> Sequence[Document]:
        """Return the documents of rows."""

    def best(self, rows: RowNumbers, scores: Scores, count: int) -> npt.NDArray[np.int64]:
        """Return the places of the `count` highest scores, best first, equal scores by id."""


def in_order(query: Found, sort: Sort, found: Mask) -> tuple[RowNumbers, Scores]:
    """Return the rows that were found up to the page's last, and what they are sorted by.

    `found` are rows that have the number to sort by, where it is a number; that of a text is 0.
    """
    if sort.is_by_number:
        rows = np.flatnonzero(found)
        numbers = query.collection.numbers(sort.by)[rows]
        best = query.best(rows, numbers if sort.descending else -numbers, query.last)
        return rows[best], numbers[best]
    if sort.by == "id":
        rows = first_by_id(query.collection, found, query.last, descending=sort.descending)
    else:
        rows = first_by_path(
            np.flatnonzero(found), query.last, query.documents, descending=sort.descending
        )
    return rows, np.zeros(len(rows))


def first_by_id(
    collection: Collection, found: Mask, count: int, *, descending: bool = False
) -> RowNumbers:
    """Return the first `count` rows of those that were found, by id, in the order of its UTF-8."""

    def of_part(place: int) -> Iterator[tuple[bytes, int]]:
        base, end = collection.bases[place : place + 2]
        rows = np.flatnonzero(found[base:end])
        ids = collection.parts[place].segment.ids
        for row in rows[::-1] if descending else rows:
            yield ids[int(row)], base + int(row)

    parts = [of_part(place) for place in range(len(collection.parts))]
    merged = heapq.merge(*parts, reverse=descending)
    return np.array([row for _, row in islice(merged, count)], np.int64)


def first_by_path(
    rows: RowNumbers,
    count: int,
    documents: Callable[[Sequence[int]], Sequence[Document]],
    *,
    descending: bool = False,
) -> RowNumbers:
    """Return the first `count` of the rows by path, equal paths by id. Reads every document."""
    keys: list[tuple[str, str]] = []
    for start in range(0, len(rows), _READ_AT_ONCE):
        read = documents(rows[start : start + _READ_AT_ONCE].tolist())
        keys += [(document.path, document.id) for document in read]
    order = sorted(range(len(rows)), key=lambda place: keys[place][1])
    order.sort(key=lambda place: keys[place][0], reverse=descending)
    return rows[np.array(order[:count], np.int64)]
