"""Ranks the documents of one version of an index: every mode, filters, facets, paging.

While an index is small, and where a query asks for it, the query vector is compared with every
embedding. Otherwise the nearest come through the codes of the vectors (`vectors.codes`), and each
hit is compared exactly. What a hybrid does with both is in `fusing`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.cutoffs import UNCUT_FACETS
from clipsearch.documents import Document, Embedding
from clipsearch.engine import (
    NO_WORDS,
    RERANK_COUNT,
    EngineQuery,
    Hit,
    IndexInfo,
    Page,
    fused_weights,
    target_hits,
)
from clipsearch.engines.local.collapsing import collapsed
from clipsearch.engines.local.collection import NOBODY, Collection
from clipsearch.engines.local.fusing import Near, fused, fused_above
from clipsearch.engines.local.ordering import in_order
from clipsearch.engines.local.ranked import Ranked
from clipsearch.engines.local.segments.metadata import Mask
from clipsearch.engines.local.selection import highest
from clipsearch.engines.local.vectors.nearest import Comparison
from clipsearch.engines.local.words.matching import MATCHED, Matching, without_mark
from clipsearch.engines.local.words.written import Captions
from clipsearch.modes import RANKINGS, Mode, Weights
from clipsearch.ranking import FUSIONS, RowNumbers, Scores, closeness
from clipsearch.sorting import Sort, without_value

ONLY_RERANKED = f"this mode ranks the first {RERANK_COUNT:,} hits; there are no pages beyond"

Lookup = Callable[[Sequence[int]], Sequence[Document]]
"""The documents of rows."""

# Reading vectors here and there costs about so many times reading all in a row.
VECTORS_PER_GATHERED_VECTOR = 12
# Products of BLAS differ from the cosines of `VectorStore.cosines` by less than this.
_ROUNDING = 4e-6


def search(
    collection: Collection,
    query: EngineQuery,
    info: IndexInfo,
    documents: Lookup,
    threads: Executor | None = None,
    captions: Captions | None = None,
) -> Page:
    """Return the page that a query asks for.

    `captions` of rows are `documents`' unless given: those may look after their vectors as well.
    With `threads`, words and vectors are looked for at once.
    """

    def of_documents(rows: Sequence[int]) -> Sequence[Sequence[str]]:
        return [each.captions for each in documents(rows)]

    matching = Matching(collection, captions or of_documents, info.language)
    ranked = _Search(collection, query, info, documents, matching, threads).ranked()
    page = ranked.cut(query.offset, query.offset + query.k)
    facets = {}
    if query.facets:
        matches = ranked.matches()
        facets = {column: collection.facets(column, matches) for column in query.facets}
    hits = tuple(
        Hit(
            document,
            # What hits are sorted by is no score, however small.
            float(page.scores[place]) if query.sort else without_mark(page.scores[place]),
            None if page.bm25 is None else without_mark(page.bm25[place]),
            None if page.cosine is None else float(page.cosine[place]),
            0 if page.more is None else int(page.more[place]),
        )
        for place, document in enumerate(documents(page.rows.tolist()))
    )
    return Page(
        hits,
        ranked.total,
        query.offset,
        facets,
        notes=ranked.notes,
        candidates=ranked.candidates,
        at_least=ranked.at_least,
    )


@dataclass
class _Search:
    """One query on its way; what several steps need is worked out once."""

    collection: Collection
    query: EngineQuery
    info: IndexInfo
    documents: Lookup
    matching: Matching
    threads: Executor | None
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.query.offset + self.query.k

    def ranked(self) -> Ranked:
        """Rank at least the hits up to the page's last."""
        if self.query.mode is None or self.query.sort is not None:
            return self._sorted(self.query.sort or Sort("id"))
        if self.query.collapse:
            # Each that was found counts, so all of it is scored, and not the page alone.
            self.last = self.collection.documents
            return collapsed(self.collection, self._by_score(self.query.mode))
        return self._by_score(self.query.mode)

    def _by_score(self, mode: Mode) -> Ranked:
        ranking = self.query.ranking
        if not ranking.needs_vector:
            return self._bm25()
        if not ranking.uses_words:
            return self._vector()
        if ranking.reranks is not None:
            return self._reranked(ranking.reranks)
        least = -np.inf if self.query.collapse else None
        least = least if self.query.min_score is None else self.query.min_score
        return self._fused(mode, self.last, least)

    @cached_property
    def allowed(self) -> Mask | None:
        """Of each row, whether it may be a hit; None where all that are not gone may."""
        query = self.query
        if not query.filters and not query.exclude_ids and not query.terms.restrict:
            return None
        mask = self.collection.passing(query.filters)
        mask[self.excluded] = False
        self.matching.keep_to(query.terms, mask)
        return mask

    @cached_property
    def excluded(self) -> RowNumbers:
        """The rows that are left out."""
        found = self.collection.find(self.query.exclude_ids)
        excluded: RowNumbers = found[found != NOBODY]
        return excluded

    @cached_property
    def passing(self) -> int:
        """Documents that may be a hit."""
        allowed = self.allowed
        return self.collection.documents if allowed is None else int(np.count_nonzero(allowed))

    def _lexical(self) -> npt.NDArray[np.float32]:
        """Return the bm25 of every row; 0 where no term matches or a filter does not hold."""
        scores = self.matching.bm25(self.query)
        if self.allowed is not None:
            scores[~self.allowed] = 0
        return scores

    def _notes(self) -> tuple[str, ...]:
        return () if self.query.has_words else (NO_WORDS,)

    def _bm25(self) -> Ranked:
        scores = self._lexical()
        if self.query.min_score is not None:
            scores[scores < self.query.min_score] = 0
        matches = scores > 0
        total = int(np.count_nonzero(matches))
        rows = highest(scores, self.last)
        best = self.best(rows, scores[rows], self.last)
        rows = rows[best]
        return Ranked(rows, scores[rows], scores[rows], None, total, lambda: matches, self._notes())

    def _vector(self) -> Ranked:
        query = self.query
        if query.min_score is None and query.min_cosine is None and not query.collapse:
            near = self.nearest(max(self.last, 1))
            rows, cosines = near.rows, near.cosines
            scores = closeness(cosines.astype(np.float64))
            total, at_least = self.passing, False
        else:
            wanted = target_hits(query)
            near, at_least = self._near(wanted)
            rows, cosines = near.rows, near.cosines
            scores = closeness(cosines.astype(np.float64))
            kept = scores >= (-np.inf if query.min_score is None else query.min_score)
            at_least = len(rows) == wanted < self.passing and bool(kept.all())
            rows, cosines, scores = rows[kept], cosines[kept], scores[kept]
            total = len(rows)

        def matches() -> Mask | None:
            return self.allowed if total == self.passing else self._mask_of(rows)

        candidates = min(target_hits(query), self.passing)
        return Ranked(
            rows, scores, None, cosines, total, matches, candidates=candidates, at_least=at_least
        )

    def _near(self, count: int) -> tuple[Near, bool]:
        """Return the `count` nearest that have the least cosine, and whether there may be more."""
        nearest = self.nearest(count)
        least = self.query.min_cosine
        if least is None:
            return nearest, False
        near = nearest.above(least)
        return near, len(nearest.rows) == len(near.rows) == count < self.passing

    def _sorted(self, sort: Sort) -> Ranked:
        """Put all that is found into another order than by score."""
        found, lexical, at_least = self._found()
        notes = self._notes() if self.query.ranking.uses_words else ()
        if sort.is_by_number:
            before = int(np.count_nonzero(found))
            found &= ~np.isnan(self.collection.numbers(sort.by))
            notes += without_value(sort.by, before - int(np.count_nonzero(found)))
        rows, scores = in_order(self, sort, found)
        cosines = self.cosines(rows) if self.query.ranking.needs_vector else None
        bm25 = None if lexical is None else lexical[rows]
        total = int(np.count_nonzero(found))
        return Ranked(rows, scores, bm25, cosines, total, lambda: found, notes, at_least=at_least)

    def _found(self) -> tuple[Mask, Scores | None, bool]:
        """Return whether each row is found, its bm25, and whether more may be beyond a cut-off."""
        ranking = self.query.ranking
        lexical = self._lexical() if ranking.uses_words else None
        if lexical is None and not ranking.needs_vector:
            return (
                self.collection.passing(()) if self.allowed is None else self.allowed,
                None,
                False,
            )
        found = self._mask_of(()) if lexical is None else lexical > 0
        if not ranking.needs_vector:
            return found, lexical, False
        near, more = self._near(self.query.candidates)
        found[near.rows] = True
        return found, lexical, more and not ranking.uses_words

    def _mask_of(self, rows: RowNumbers | tuple[()]) -> Mask:
        mask = np.zeros(self.collection.rows, bool)
        mask[np.asarray(rows, np.int64)] = True
        return mask

    def best(self, rows: RowNumbers, scores: Scores, count: int) -> npt.NDArray[np.int64]:
        """Return the places of the `count` highest scores, best first, equal scores by id."""
        if count <= 0 or not len(rows):
            return np.zeros(0, np.int64)
        places = np.arange(len(rows))
        if count < len(rows):
            kth = np.partition(scores, len(rows) - count)[len(rows) - count]
            places = np.flatnonzero(scores >= kth)
            if len(places) > count:
                above = np.flatnonzero(scores > kth)
                tied = np.flatnonzero(scores == kth)
                first = self._first_by_id(rows, tied, count - len(above))
                places = np.concatenate([above, first])
        order = places[np.argsort(-scores[places], kind="stable")]
        return self._ties_by_id(rows, scores, order)

    def _first_by_id(self, rows: RowNumbers, places: RowNumbers, count: int) -> RowNumbers:
        """Return the `count` of these places whose ids come first.

        In a segment, these are the places of the lowest rows.
        """
        bases = np.array(self.collection.bases)
        part = np.searchsorted(bases, rows[places], side="right")
        order = places[np.lexsort((rows[places], part))]
        parts = np.sort(part)
        rank = np.arange(len(order)) - np.searchsorted(parts, parts)
        first = order[rank < count]
        if len(first) <= count:
            return first
        ids = self.collection.ids(rows[first])
        by_id = sorted(range(len(first)), key=ids.__getitem__)
        return first[by_id[:count]]

    def _ties_by_id(self, rows: RowNumbers, scores: Scores, order: RowNumbers) -> RowNumbers:
        """Return `order` with runs of equal scores sorted by id."""
        ordered = scores[order]
        tied = np.zeros(len(order) + 1, bool)
        tied[1:-1] = ordered[1:] == ordered[:-1]
        if not tied.any():
            return order
        among = np.flatnonzero(tied[1:] | tied[:-1])
        ids = self.collection.ids(rows[order[among]])
        place_of_id = np.zeros(len(order), np.int64)
        place_of_id[among[sorted(range(len(ids)), key=ids.__getitem__)]] = np.arange(len(ids))
        placed = np.lexsort((place_of_id, np.cumsum(~tied[:-1])))
        return order[placed]

    @property
    def vector(self) -> Embedding:
        """Of the query."""
        assert self.query.vector is not None  # EngineQuery.check
        return np.ascontiguousarray(self.query.vector, np.float32)

    def nearest(self, count: int) -> Near:
        """Return the nearest that may be hits."""
        collection = self.collection
        depth = None
        if collection.depths is not None and not self.query.exact:
            depth = collection.depths.of(count, collection.documents)
        if depth is not None and depth[1] * VECTORS_PER_GATHERED_VECTOR > self.passing:
            depth = None
        if depth is None:
            rows = self._all_near(count)
            compared = None
        else:
            compared = Comparison(collection.vectors, self.vector, self._allowed_slots())
            rows = collection.row_of_slot[compared.nearest(*depth)].astype(np.int64)
            rows = rows[rows != NOBODY]
        cosines = self.cosines(rows)
        best = self.best(rows, cosines, count)
        other = np.ones(len(rows), bool)
        other[best] = False
        return Near(rows[best], cosines[best], compared, rows[other], cosines[other])

    def cosines(self, rows: RowNumbers) -> Embedding:
        """Return the cosines of some rows, float32."""
        return self.collection.vectors.cosines(
            self.vector, self.collection.slots[rows].astype(np.int64)
        )

    def _allowed_slots(self) -> npt.NDArray[np.bool_] | None:
        if self.allowed is None:
            return None
        if self.query.filters or self.query.terms.restrict:
            return self._of_slots(self.allowed)
        mask = np.ones(self.collection.vectors.size, bool)
        mask[self.collection.slots[self.excluded]] = False
        return mask

    def _all_near(self, count: int) -> RowNumbers:
        """Return the rows that hold the `count` nearest of every vector that may be a hit."""
        collection = self.collection
        if self.passing * VECTORS_PER_GATHERED_VECTOR < collection.vectors.size:
            assert self.allowed is not None or collection.documents == self.passing
            mask = collection.passing(()) if self.allowed is None else self.allowed
            return np.flatnonzero(mask)
        products = self.all_products()
        if self.allowed is not None:
            products[~self._of_slots(self.allowed)] = -np.inf
        # Those that tie with the last are all compared again, alike.
        slots = highest(products, count, above=-np.inf, margin=_ROUNDING)
        found = collection.row_of_slot[slots].astype(np.int64)
        near: RowNumbers = found[found != NOBODY]
        return near

    def all_products(self) -> Embedding:
        """Return every slot's cosine, float32, to about 1e-6; -inf where no document has it."""
        collection = self.collection
        products = np.empty(collection.vectors.size, np.float32)
        if sum(block.count for block in collection.vectors.blocks) < len(products):
            products[:] = -np.inf
        collection.vectors.products(self.vector, products)
        if collection.documents < len(products):
            products[collection.row_of_slot == NOBODY] = -np.inf
        return products

    def _of_slots(self, rows: Mask) -> Mask:
        mask = np.zeros(self.collection.vectors.size, bool)
        mask[self.collection.slots[rows]] = True
        return mask

    def weights(self, mode: Mode) -> Weights:
        """Return the weights of bm25 and the vector in `mode`; (1, 1) where it weighs nothing."""
        return fused_weights(self.query, self.info) if RANKINGS[mode].weighted else Weights(1, 1)

    def _fused(self, mode: Mode, count: int, least: float | None = None) -> Ranked:
        """Fuse lexical matches and nearest by vector; return the first `count` by `mode`.

        With `least` all that score lower are no matches.
        """
        if self.allowed is not None:
            _ = self.passing  # before threads ask for both at once
        if self.threads is None:
            lexical = self._lexical()
            near, _ = self._near(self.query.candidates)
        else:
            looked_up = self.threads.submit(self._lexical)
            near, _ = self._near(self.query.candidates)
            lexical = looked_up.result()
        weights = self.weights(mode)

        def fuse(one: Scores, other: Scores) -> npt.NDArray[np.float64]:
            return FUSIONS[mode](one, other, weights)

        if least is None:
            found = fused(self, lexical, near, fuse, count)
        else:
            found = fused_above(self, lexical, near, fuse, least)
        best = self.best(found.rows, found.scores, count)
        rows = found.rows[best]

        def matches() -> Mask:
            if least is not None:
                return self._mask_of(found.rows)
            mask = lexical > 0
            mask[near.rows] = True
            return mask

        return Ranked(
            rows,
            found.scores[best],
            lexical[rows],
            found.cosines[best],
            found.total,
            matches,
            self._notes(),
        )

    def _reranked(self, first_by: Mode) -> Ranked:
        """Order anew the first hits of the mode `first_by`."""
        first = self._fused(first_by, RERANK_COUNT)
        assert first.bm25 is not None and first.cosine is not None
        mode = self.query.mode
        assert mode is not None  # one that reranks
        words = np.where(first.bm25 <= MATCHED, 0, first.bm25)
        scores = FUSIONS[mode](words, first.cosine, self.weights(mode))
        order = self.best(first.rows, scores, len(first.rows))
        notes = first.notes
        if self.last > RERANK_COUNT < first.total:
            notes += (ONLY_RERANKED,)
        ordered = replace(
            first,
            rows=first.rows[order],
            scores=scores[order],
            bm25=first.bm25[order],
            cosine=first.cosine[order],
            notes=notes,
        )
        least = self.query.min_score
        if least is None:
            return ordered
        looked_at = min(self.last, len(order))
        total = int(np.count_nonzero(ordered.scores[:looked_at] >= least))
        more = total == looked_at < first.total
        notes += (UNCUT_FACETS,) if self.query.facets else ()
        return replace(ordered.cut(0, total), total=total, at_least=more, notes=notes)
