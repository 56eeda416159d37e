"""Ranks the documents of a snapshot: every mode, filters, facets, paging.

Up to a limit the query vector is compared with every embedding, and all scores are known. Above
it the nearest come from the vector index; then a weighted sum over all lexical matches is still
exact, by Fagin's threshold bound (Fagin, Lotem and Naor, "Optimal aggregation algorithms for
middleware", 2003): a match that is not among the nearest has at most the last one's cosine, so
that only those whose bound reaches the page need their own cosine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Embedding
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
from clipsearch.engines.local.metadata import Mask
from clipsearch.engines.local.snapshot import Snapshot
from clipsearch.modes import RANKINGS, Mode
from clipsearch.ranking import FUSIONS, RowNumbers, Scores, Weights, best_rows, closeness

ONLY_RERANKED = f"this mode ranks the first {RERANK_COUNT:,} hits; there are no pages beyond"

# The index compares shortened vectors; so many more are asked for, and compared exactly.
LEAST_FETCHED = 150
FIRST_CHUNK = 512
# Reading rows here and there costs about so many times reading all in a row.
ROWS_PER_GATHERED_ROW = 8


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An approximate index of the embeddings.

    Attributes:
        nearest: (vector, count) to the rows of about the nearest.
        few_rows: Where no more documents than this pass a filter, comparing each is as quick.
    """

    nearest: Callable[[Embedding, int], RowNumbers]
    few_rows: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """Hits in order, with what a page tells about them; arrays of the same length.

    `matches` are what facets count; None counts every document.
    """

    rows: RowNumbers
    scores: Scores
    bm25: Scores | None
    cosine: Scores | None
    total: int
    matches: Mask | None = None
    notes: tuple[str, ...] = ()
    candidates: int | None = None

    def cut(self, start: int, end: int) -> "Ranked":
        """The hits from `start` to `end`."""
        part = slice(start, end)
        return Ranked(
            self.rows[part],
            self.scores[part],
            None if self.bm25 is None else self.bm25[part],
            None if self.cosine is None else self.cosine[part],
            self.total,
            self.matches,
            self.notes,
            self.candidates,
        )


def search(
    snapshot: Snapshot, query: EngineQuery, info: IndexInfo, index: VectorIndex | None = None
) -> Page:
    """The page that a query asks for; without an index every embedding is compared."""
    ranked = _Search(snapshot, query, info, index).ranked()
    page = ranked.cut(query.offset, query.offset + query.k)
    facets = {}
    for column in query.facets:
        tags = snapshot.metadata.tag(column)
        facets[column] = () if tags is None else tags.counts(ranked.matches)
    return Page(
        _hits(snapshot, page),
        ranked.total,
        query.offset,
        facets,
        notes=ranked.notes,
        candidates=ranked.candidates,
    )


def _hits(snapshot: Snapshot, page: Ranked) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            snapshot.documents[int(row)],
            float(page.scores[place]),
            None if page.bm25 is None else float(page.bm25[place]),
            None if page.cosine is None else float(page.cosine[place]),
        )
        for place, row in enumerate(page.rows)
    )


@dataclass
class _Search:
    """One query on its way; what several steps need is worked out once."""

    snapshot: Snapshot
    query: EngineQuery
    info: IndexInfo
    index: VectorIndex | None
    allowed: Mask | None = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.allowed = self._allowed()
        self.last = self.query.offset + self.query.k
        if self.index and self.allowed is not None and self.allowed.sum() <= self.index.few_rows:
            self.index = None

    def ranked(self) -> Ranked:
        """At least the hits up to the page's last."""
        ranking = self.query.ranking
        if not ranking.needs_vector:
            return self._bm25()
        if not ranking.uses_words:
            return self._vector()
        if ranking.reranks is not None:
            return self._reranked(ranking.reranks)
        return self._fused(self.query.mode, self.last)

    def _allowed(self) -> Mask | None:
        if not self.query.filters and not self.query.exclude_ids:
            return None
        mask = self.snapshot.metadata.passing(self.query.filters)
        for document_id in self.query.exclude_ids:
            row = self.snapshot.documents.find(document_id)
            if row is not None:
                mask[row] = False
        return mask

    def _lexical(self) -> npt.NDArray[np.float32]:
        """bm25 of every document; 0 where no token matches or a filter does not hold."""
        scores = self.snapshot.postings.bm25(self.query.tokens)
        if self.allowed is not None:
            scores[~self.allowed] = 0
        return scores

    def _notes(self) -> tuple[str, ...]:
        return () if self.query.tokens else (NO_WORDS,)

    def _bm25(self) -> Ranked:
        scores = self._lexical()
        matches = scores > 0
        rows = np.flatnonzero(matches)
        best = best_rows(scores[rows], self.last, rows)
        return Ranked(best, scores[best], scores[best], None, len(rows), matches, self._notes())

    def _vector(self) -> Ranked:
        rows, cosines = self._nearest(self.last)
        passing = len(self.snapshot) if self.allowed is None else int(self.allowed.sum())
        return Ranked(
            rows,
            closeness(cosines.astype(np.float64)),
            None,
            cosines,
            passing,
            self.allowed,
            candidates=min(target_hits(self.query), passing),
        )

    def _vector_of_query(self) -> Embedding:
        assert self.query.vector is not None  # EngineQuery.check
        return np.ascontiguousarray(self.query.vector, np.float32)

    def _all_cosines(self) -> Embedding:
        """Of every document; -inf where a filter does not hold."""
        if self.allowed is None:
            return self.snapshot.cosines(self._vector_of_query())
        cosines = np.full(len(self.snapshot), -np.inf, np.float32)
        rows = np.flatnonzero(self.allowed)
        cosines[rows] = self._cosines_of(rows)
        return cosines

    def _cosines_of(self, rows: RowNumbers) -> Embedding:
        """Of some rows, whichever way is quicker."""
        vector = self._vector_of_query()
        if len(rows) > len(self.snapshot) // ROWS_PER_GATHERED_ROW:
            return self.snapshot.cosines(vector)[rows]
        return self.snapshot.cosines(vector, rows)

    def _nearest(self, count: int) -> tuple[RowNumbers, Embedding]:
        """The nearest that pass the filters, nearest first, and their cosines."""
        if self.index is not None:
            rows = self._fetched(self.index, count)
            if len(rows) >= count:
                cosines = self.snapshot.cosines(self._vector_of_query(), rows)
                best = best_rows(cosines, count)
                return rows[best], cosines[best]
        cosines = self._all_cosines()
        rows = best_rows(cosines, count)
        return rows, cosines[rows]

    def _fetched(self, index: VectorIndex, count: int) -> RowNumbers:
        """Rows from the index, ascending, that pass the filters: more than `count`, or all it has.

        An index can miss rows even when asked for all.
        """
        share = 1.0 if self.allowed is None else float(self.allowed.mean())
        fetched = max(LEAST_FETCHED, count * 3 // 2)
        while True:
            wanted = min(int(fetched / share) + 1, len(self.snapshot))
            rows = np.sort(index.nearest(self._vector_of_query(), wanted))
            if self.allowed is not None:
                rows = rows[self.allowed[rows]]
            if len(rows) >= count or wanted == len(self.snapshot):
                return rows
            fetched *= 4

    def _weights(self, mode: Mode) -> Weights:
        """Of bm25 and the vector in `mode`; (1, 1) where it weighs nothing."""
        return fused_weights(self.query, self.info) if RANKINGS[mode].weighted else (1.0, 1.0)

    def _fused(self, mode: Mode, count: int) -> Ranked:
        """The first `count` by `mode` over lexical matches and nearest by vector."""
        lexical = self._lexical()
        weights = self._weights(mode)

        def fuse(bm25: Scores, cosine: Scores) -> npt.NDArray[np.float64]:
            return FUSIONS[mode](bm25, cosine, weights)

        # The bound needs a score that rises with the cosine; and among many matches so many
        # reach the first thousand hits that comparing every embedding is quicker.
        few = len(lexical) // ROWS_PER_GATHERED_ROW
        many = count >= RERANK_COUNT and np.count_nonzero(lexical) > few
        if self.index is None or weights[1] < 0 or many:
            cosines = self._all_cosines()
            near = best_rows(cosines, self.query.candidates)
            matches = lexical > 0
            matches[near] = True
            rows = np.flatnonzero(matches)
            cosines = cosines[rows]
        else:
            near, near_cosines = self._nearest(self.query.candidates)
            matches = lexical > 0
            matches[near] = True
            rows, cosines = self._threshold(lexical, matches, near, near_cosines, fuse, count)
        scores = fuse(lexical[rows], cosines)
        best = best_rows(scores, count)
        return Ranked(
            rows[best],
            scores[best],
            lexical[rows[best]],
            cosines[best],
            int(matches.sum()),
            matches,
            self._notes(),
        )

    def _threshold(
        self,
        lexical: npt.NDArray[np.float32],
        matches: Mask,
        near: RowNumbers,
        near_cosines: Embedding,
        fuse: Callable[[Scores, Scores], npt.NDArray[np.float64]],
        count: int,
    ) -> tuple[RowNumbers, Embedding]:
        """Rows, ascending, that hold the best `count` of all matches, with their cosines."""
        rows, cosines = near, near_cosines
        scores = fuse(lexical[near], near_cosines)
        unseen = matches.copy()
        unseen[near] = False
        left = np.flatnonzero(unseen)
        last_cosine = near_cosines[-1:] if len(near) else np.ones(1)
        bounds = fuse(lexical[left], last_cosine)
        chunk = max(FIRST_CHUNK, count)
        while True:
            if len(scores) >= count:
                worst = np.partition(scores, len(scores) - count)[len(scores) - count]
                reaching = bounds >= worst
                left, bounds = left[reaching], bounds[reaching]
                kept = scores >= worst
                rows, cosines, scores = rows[kept], cosines[kept], scores[kept]
            if not len(left):
                break
            if len(left) > len(self.snapshot) // 4 and chunk > FIRST_CHUNK:
                chunk = len(left)  # most are needed: read them all, in a row
            order = np.argpartition(-bounds, min(chunk, len(left) - 1))
            taken = np.sort(left[order[:chunk]])
            found = self._cosines_of(taken)
            rows, cosines = np.concatenate([rows, taken]), np.concatenate([cosines, found])
            scores = np.concatenate([scores, fuse(lexical[taken], found)])
            left, bounds = left[order[chunk:]], bounds[order[chunk:]]
            chunk *= 4
        ascending = np.argsort(rows)
        return rows[ascending], cosines[ascending]

    def _reranked(self, first_by: Mode) -> Ranked:
        """The first hits of the mode `first_by`, ordered anew."""
        first = self._fused(first_by, RERANK_COUNT)
        assert first.bm25 is not None and first.cosine is not None
        mode = self.query.mode
        scores = FUSIONS[mode](first.bm25, first.cosine, self._weights(mode))
        order = np.lexsort((first.rows, -scores))
        notes = first.notes
        if self.last > RERANK_COUNT < first.total:
            notes += (ONLY_RERANKED,)
        return Ranked(
            first.rows[order],
            scores[order],
            first.bm25[order],
            first.cosine[order],
            first.total,
            first.matches,
            notes,
        )
