"""Documents without an embedding, which a change of dimension or precision leaves behind.

Vespa then keeps captions, tags and numbers, and drops the vectors: such documents are counted and
found by their words, and no search by vector finds them until they are fed again.
"""

import time
from collections.abc import Callable

from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.operations import DOCUMENT_TYPE
from finetune.errors import EngineError

# So long a count is taken for what holds still, where queries come in quick succession.
KEPT_SECONDS = 30.0
NOTE = (
    "{:,} documents have no embedding since the dimension or precision of the index changed: no"
    " search by vector finds them until they are fed again"
)

NOT_COUNTED = (
    "some documents may have no embedding since the dimension or precision of the index changed,"
    " and could not be counted now: no search by vector finds them until they are fed again"
)


def embedded_body(info: IndexInfo, documents: int, timeout: float) -> dict[str, Json]:
    """Return the JSON of a search that matches every document with an embedding and returns none.

    An exact search for as many nearest as there are `documents` matches each that has a vector,
    and none without (https://docs.vespa.ai/en/querying/nearest-neighbor-search.html).
    """
    nearest = f"{{targetHits:{documents}, approximate:false}}nearestNeighbor(embedding, q)"
    return {
        "yql": f"select id from {DOCUMENT_TYPE} where ({nearest})",
        "hits": 0,
        "ranking.profile": "vector",
        "input.query(q)": [1.0] + [0.0] * (info.dimension - 1),
        "timeout": f"{timeout:g}s",
    }


class UnembeddedCount:
    """Counts them where there may be some, and remembers the count for a while."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count` asks Vespa, and may take as long as an exact search."""
        self._count = count
        self._known = 0
        self._known_until = 0.0

    def note(self, info: IndexInfo, query: EngineQuery, page: Page) -> tuple[str, ...]:
        """Return a sentence for who searched by vector, where there are such documents.

        Asked for only where `info` says that there may be some, or nothing at all was found.
        """
        empty = not (page.hits or query.filters or query.offset)
        if not query.ranking.needs_vector or not (info.may_lack_embeddings or empty):
            return ()
        try:
            if time.monotonic() >= self._known_until:
                self._known = self._count()
                self._known_until = time.monotonic() + KEPT_SECONDS
        except EngineError:  # an answer is there: it must not fail for want of a note
            return (NOT_COUNTED,) if info.may_lack_embeddings else ()
        return (NOTE.format(self._known),) if self._known else ()
