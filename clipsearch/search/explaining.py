"""Explains the hits of a page, with what any engine answers: frequencies, and searches to count."""

from dataclasses import replace

from clipsearch.engine import Engine, EngineQuery, Hit, Page, fused_weights
from clipsearch.explanation import NOTHING_WRITTEN, Explanation, Written, shares_of
from clipsearch.terms import DocumentFrequencies

# Scores that are nearer than this are one rank: embedded indexes keep them as float32.
_SAME = 2e-6


def explained(
    page: Page,
    query: EngineQuery,
    engine: Engine,
    *,
    weighted: bool = True,
    written: Written = NOTHING_WRITTEN,
) -> Page:
    """Return the page with an explanation of each hit.

    For each hit the documents with a higher bm25 are counted, and those with a higher cosine: the
    latter compares every vector. `weighted`: the weights of the mode are those of the scores.
    `written`: the words of the query, by their tokens.

    Raises EngineError.
    """
    tokens = [token for term in query.scored for token in term.tokens]
    uses_words = query.ranking.uses_words
    frequencies = engine.document_frequencies(tokens) if uses_words and page.hits else None
    documents = engine.count() if query.ranking.needs_vector and page.hits else 0
    explain = _Explainer(query, engine, frequencies, documents, weighted, written)
    return replace(
        page, hits=tuple(replace(hit, explanation=explain.hit(hit)) for hit in page.hits)
    )


class _Explainer:
    def __init__(
        self,
        query: EngineQuery,
        engine: Engine,
        frequencies: DocumentFrequencies | None,
        documents: int,
        weighted: bool,
        written: Written,
    ) -> None:
        self._written = written
        self._query, self._engine = query, engine
        self._frequencies, self._documents = frequencies, documents
        self._weighted = weighted and query.ranking.weighted
        # What the query could find, whatever is shown of it and in which order.
        self._all = replace(
            query, k=1, offset=0, facets=(), min_score=None, min_cosine=None, sort=None,
            collapse=False, bm25_weight=None, vector_weight=None,
        )  # fmt: skip

    def hit(self, hit: Hit) -> Explanation:
        query, info = self._query, self._engine.info
        found = Explanation()
        if self._weighted:
            bm25, vector, _ = fused_weights(query, info)
            found = replace(found, bm25_weight=bm25, vector_weight=vector)
        if self._frequencies is not None and hit.bm25 is not None:
            terms, length_part = shares_of(
                hit.bm25,
                hit.document.captions,
                query.scored,
                self._frequencies,
                info.language,
                self._written,
            )
            rank = self._rank_by_words(hit.bm25) if hit.bm25 > 0 else None
            found = replace(found, terms=terms, length_part=length_part, rank_by_words=rank)
        if hit.cosine is not None:
            found = replace(found, rank_by_image=self._rank_by_image(hit.cosine))
        return found

    def _rank_by_words(self, bm25: float) -> int:
        above = bm25 * (1 + _SAME)
        query = replace(self._all, mode="bm25", vector=None, min_score=above)
        return 1 + self._engine.search(query).total

    def _rank_by_image(self, cosine: float) -> int:
        above = min(cosine + _SAME, 1.0)
        query = replace(
            self._all, mode="vector", tokens=(), min_cosine=above, exact=True,
            candidates=self._documents,
        )  # fmt: skip
        return 1 + self._engine.search(query).total
