"""The first hits of a hybrid in the order that the index was calibrated to, in both engines."""

from dataclasses import replace

import numpy as np

from clipsearch.engine import RERANK_COUNT, Engine, EngineQuery, Hit, IndexInfo, Page
from clipsearch.reordering import Reorder

AS_HYBRID = (
    "hybrid ranks as it is, and not as calibrated: what is cut by score or collapsed is not"
    " reordered"
)
AS_CALIBRATED = f"the first {RERANK_COUNT:,} hits of hybrid are ranked by z-scores, as calibrated"
BEYOND = f"hits beyond the first {RERANK_COUNT:,} follow in hybrid's order, with its scores"


def calibrated_order(query: EngineQuery, info: IndexInfo) -> tuple[Reorder | None, list[str]]:
    """Return the order of a query that names no mode, and what to tell of it.

    None where the index has none, the mode is not `hybrid`, the query brings weights, or it is
    sorted, cut by score or collapsed.
    """
    order = info.reorder
    given = (query.bm25_weight, query.vector_weight)
    if order is None or query.mode != "hybrid" or given != (None, None) or query.sort is not None:
        return None, []
    if query.min_score is not None or query.collapse:
        return None, [AS_HYBRID]
    return order, [AS_CALIBRATED]


def search_in(order: Reorder | None, query: EngineQuery, engine: Engine) -> Page:
    """Ask for the page of a `hybrid` query, its first RERANK_COUNT hits in `order`; None: as it is.

    All of these are asked for, whatever the page shows. Pages beyond follow as the engine has
    them. Raises EngineError.
    """
    if order is None:
        return engine.search(query)
    last = query.offset + query.k
    if query.offset >= RERANK_COUNT:
        page = engine.search(query)
        return replace(page, notes=(*page.notes, BEYOND))
    page = engine.search(replace(query, k=max(RERANK_COUNT, last), offset=0))
    first = _reordered(order, page.hits[:RERANK_COUNT])
    hits = (*first, *page.hits[RERANK_COUNT:])[query.offset : last]
    notes = (*page.notes, BEYOND) if last > RERANK_COUNT < page.total else page.notes
    return replace(page, hits=hits, offset=query.offset, notes=notes)


def _reordered(order: Reorder, hits: tuple[Hit, ...]) -> list[Hit]:
    bm25 = np.array([hit.bm25 or 0.0 for hit in hits])
    cosine = np.array([hit.cosine or 0.0 for hit in hits])
    scores = order.scores(bm25, cosine).tolist()
    scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: (-hit.score, hit.document.id))
