"""A query asked of Vespa as often as it takes, so that a filter costs no hit.

Vespa's search for the nearest is approximate, and filters make it worse: where few documents pass,
it may stop before it has found them all, and what only the exact part of a filter drops leaves its
place empty. So what passes is counted first; few are all compared; and where fewer candidates come
than there must be, they are asked for again, exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from clipsearch.engine import EngineQuery, IndexInfo, Page, target_hits
from clipsearch.engines.vespa import queries
from clipsearch.engines.vespa.answers import SearchAnswer
from clipsearch.engines.vespa.filter_fields import FILTER_FORM
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.restrictions import are_tight

# So few are compared in less time than a walk through the graph takes.
FEW_PASSING = 2_000

EARLIER_FORM = (
    "the index was fed by an earlier version, so the filters are tried on every picture: right,"
    " but slower; the next clipsearch feed mends that"
)


@dataclass(frozen=True, slots=True)
class Searcher:
    """Asks the index of `info`; `ask` sends the JSON of a search and parses the answer."""

    info: IndexInfo
    timeout: float
    ask: Callable[[dict[str, Json]], SearchAnswer]

    def page(self, query: EngineQuery) -> Page:
        """Return the answer.

        Raises UsageError for a query that cannot work, and what `ask` raises.
        """
        start = time.monotonic()
        query.check(self.info)
        queries.check_filters(query)
        ranking = query.ranking
        if not ranking.needs_vector and not query.tokens:
            # Vespa answers a search for nothing with an error.
            return Page((), 0, query.offset, dict.fromkeys(query.facets, ()))
        if not ranking.needs_vector:
            page = self._page(query, self._hits(query))
        elif not ranking.uses_words:
            page = self._vector(query)
        else:
            page = self._hybrid(query)
        return replace(page, seconds=time.monotonic() - start)

    def _vector(self, query: EngineQuery) -> Page:
        passing = self._count(query)
        target = target_hits(query)
        exact = query.exact or self._compare_all(query, passing.total)
        answer = self._hits(query, exact=exact)
        if not exact and self._too_few(answer, min(target, passing.total)):
            answer = self._hits(query, exact=True)
        page = self._page(query, answer, passing)
        return replace(page, candidates=min(target, answer.total, passing.total))

    def _hybrid(self, query: EngineQuery) -> Page:
        if not query.filters and not query.exact:
            return self._page(query, self._hits(query))
        passing = self._count(replace(query, facets=())).total
        exact = query.exact or self._compare_all(query, passing)
        if not exact:
            nearest = queries.nearest_body(query, self.info, self.timeout, 0, exact=False)
            exact = self._too_few(self.ask(nearest), min(query.candidates, passing))
        if not exact:
            return self._page(query, self._hits(query))
        least = None if passing <= query.candidates else self._least_cosine(query)
        return self._page(query, self._hits(query, exact=True, least_cosine=least))

    def _compare_all(self, query: EngineQuery, passing: int) -> bool:
        """Return whether to ask exactly at once, for the sake of the filters."""
        if not query.filters:
            return False
        return passing <= FEW_PASSING or not are_tight(query, self.info)

    def _hits(
        self, query: EngineQuery, *, exact: bool = False, least_cosine: float | None = None
    ) -> SearchAnswer:
        return self.ask(
            queries.search_body(
                query, self.info, self.timeout, exact=exact, least_cosine=least_cosine
            )
        )

    def _count(self, query: EngineQuery) -> SearchAnswer:
        """Return how many documents pass the filters, with the facets over them."""
        return self.ask(queries.count_body(self.timeout, query, self.info))

    @staticmethod
    def _too_few(found: SearchAnswer, wanted: int) -> bool:
        """Return whether an approximate search left candidates out.

        One cut short would be so again.
        """
        return found.partial is None and found.total < wanted

    def _least_cosine(self, query: EngineQuery) -> float | None:
        """Return a bound between the last candidate and the next document, None without a next.

        An exact search matches documents beyond the nearest, which are no candidates: they would
        be among the hits, and change what the hybrids of ranks make of the others.
        """
        hits = self.ask(
            queries.nearest_body(query, self.info, self.timeout, query.candidates + 1, exact=True)
        ).hits
        if len(hits) <= query.candidates:
            return None
        last, beyond = (hit.cosine or 0.0 for hit in hits[-2:])
        return (last + beyond) / 2

    def _page(
        self, query: EngineQuery, answer: SearchAnswer, counted: SearchAnswer | None = None
    ) -> Page:
        """Return the hits of `answer`, with total and facets of `counted`, or else its own."""
        listed = counted or answer
        return Page(
            # Vespa orders equal scores as it likes; within the page they are put in order.
            hits=tuple(sorted(answer.hits, key=lambda hit: (-hit.score, hit.document.id))),
            total=listed.total,
            offset=query.offset,
            facets={column: listed.facets.get(column, ()) for column in query.facets},
            notes=self._notes(query, listed),
            partial=answer.partial or listed.partial,
        )

    def _notes(self, query: EngineQuery, listed: SearchAnswer) -> tuple[str, ...]:
        notes = [
            f"{column} has more values than the {queries.MOST_FACET_VALUES:,} most frequent shown"
            for column in listed.cut_facets
        ]
        earlier = self.info.document_form < FILTER_FORM
        if query.filters and query.ranking.needs_vector and earlier:
            notes.append(EARLIER_FORM)
        return tuple(notes)
