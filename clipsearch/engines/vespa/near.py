"""A radius in Vespa, exactly: boxes of numbers, and at the edge ids that were looked at here.

Vespa compares numbers with ranges alone, as far as this clipsearch knows it. So the disc is cut
into strips of latitude: what lies in their inner boxes is within the radius for sure, and what lies
at the edge is asked for first and compared by the same arithmetic as in the embedded engine. Then
filter, total, facets and pages are Vespa's own.

Cost: one request, whose answer grows with what lies at the edge: a tenth of what lies within the
radius, or with more strips a fiftieth or less, where that would be too many.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery
from clipsearch.filtering import LATITUDE, LONGITUDE, Filter, NearFilter, NumberFilter
from clipsearch.geography import Box, are_near, boxes_around
from finetune.errors import UsageError

# Asked for one after the other until what lies at the edge is few.
STRIPS = (24, 128, 640)
MOST_AT_EDGE = 2_000
_NOWHERE = Box(91.0, -91.0, 0.0, 0.0)

# The documents that are found, as many as are asked for, and how many there are.
Found = Callable[[EngineQuery], tuple[tuple[Document, ...], int]]


@dataclass(frozen=True, slots=True)
class NearInBoxes(NearFilter):
    """A radius of which Vespa can be asked.

    Attributes:
        boxes: Whatever lies in one of these passes.
        ids: These pass too.
    """

    boxes: tuple[Box, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def alternatives(self) -> tuple[tuple[NumberFilter, NumberFilter], ...]:
        """Conditions on both numbers, of which one pair must hold, if no id does."""
        return tuple(
            (
                NumberFilter(LATITUDE, box.south, box.north),
                NumberFilter(LONGITUDE, box.west, box.east),
            )
            for box in self.boxes or (() if self.ids else (_NOWHERE,))
        )


def in_boxes(query: EngineQuery, find: Found) -> EngineQuery:
    """Return the query with boxes and ids for each radius; the same where it has none.

    Raises UsageError where too many documents lie at an edge, and what `find` raises.
    """
    filters = list(query.filters)
    others = tuple(one for one in filters if not isinstance(one, NearFilter))
    for place, one in enumerate(filters):
        if isinstance(one, NearFilter):
            filters[place] = _in_boxes(one, others, find)
    return replace(query, filters=tuple(filters))


def _in_boxes(near: NearFilter, others: tuple[Filter, ...], find: Found) -> NearInBoxes:
    where = (near.latitude, near.longitude, near.meters)
    for strips in STRIPS:
        boxes = boxes_around(near, strips)
        edge = NearInBoxes(*where, boxes.edge)
        documents, total = find(EngineQuery(None, k=MOST_AT_EDGE, filters=(*others, edge)))
        if total <= MOST_AT_EDGE:
            numbers = [[each.numbers[name] for each in documents] for name in (LATITUDE, LONGITUDE)]
            latitudes, longitudes = np.array(numbers, np.float64).reshape(2, -1)
            passing = np.flatnonzero(are_near(latitudes, longitudes, near)).tolist()
            return NearInBoxes(*where, boxes.inner, tuple(documents[at].id for at in passing))
    raise UsageError(
        f"more than {MOST_AT_EDGE:,} pictures lie about {near.meters / 1000:g} km from"
        f" {near.latitude:g},{near.longitude:g}, and Vespa compares no distances; take a smaller"
        f" radius, or add another filter"
    )
