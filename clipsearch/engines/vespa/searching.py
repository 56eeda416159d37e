"""A query asked of Vespa as often as it takes, so that a filter costs no hit.

Vespa's search for the nearest is approximate, and filters make it worse: where few documents pass,
it may stop before it has found them all, and what only the exact part of a filter drops leaves its
place empty. So what passes is counted first; few are all compared; and where fewer candidates come
than there must be, they are asked for again, exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from clipsearch.cutoffs import UNCUT_FACETS
from clipsearch.documents import LOOK_FORM, Document
from clipsearch.engine import EngineQuery, Hit, IndexInfo, Page, TooManyValuesError, target_hits
from clipsearch.engines.vespa import queries
from clipsearch.engines.vespa.answers import SearchAnswer
from clipsearch.engines.vespa.filter_fields import FILTER_FORM
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.near import in_boxes
from clipsearch.engines.vespa.restrictions import are_tight
from clipsearch.engines.vespa.term_clauses import check_terms
from clipsearch.sorting import without_value
from finetune.errors import EngineError

# So few are compared in less time than a walk through the graph takes.
FEW_PASSING = 2_000

EARLIER_FORM = (
    "the index was fed by an earlier version, so the filters are tried on every picture: right,"
    " but slower; the next clipsearch feed mends that"
)
EARLIER_LOOKS = (
    "the index was fed by an earlier version, and does not know which pictures look alike: run"
    " clipsearch deploy, as the first time, and then the same clipsearch feed again; nothing is"
    " encoded anew"
)
EARLIER_NUMBERS = (
    "the index was fed by an earlier version, and cannot be sorted by a number: run clipsearch"
    " deploy, as the first time, and then the same clipsearch feed again; nothing is encoded anew"
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
        self._check_form(query)
        check_terms(query, self.info)
        query = in_boxes(query, self._found)
        ranking = query.ranking
        if ranking.uses_words and not ranking.needs_vector and not query.has_words:
            # Vespa answers a search for nothing with an error.
            return Page((), 0, query.offset, dict.fromkeys(query.facets, ()))
        if not ranking.needs_vector:
            page = self._page(query, self._hits(query))
        elif queries.counts_passing(query):
            page = self._vector(query)
        elif not ranking.uses_words:
            page = self._cut_vector(query)
        else:
            page = self._page(query, self._joined(query, query.candidates)[0])
        return replace(page, seconds=time.monotonic() - start)

    def _check_form(self, query: EngineQuery) -> None:
        """Raise EngineError where documents of an earlier version lack what the query asks for."""
        by_number = query.sort is not None and query.sort.is_by_number
        if self.info.document_form < LOOK_FORM and (by_number or query.collapse):
            raise EngineError(EARLIER_LOOKS if query.collapse else EARLIER_NUMBERS)

    def _vector(self, query: EngineQuery) -> Page:
        passing = self._count(query)
        target = target_hits(query)
        exact = query.exact or self._compare_all(query, passing.total)
        answer = self._hits(query, exact=exact)
        if not exact and self._too_few(answer, min(target, passing.total)):
            answer = self._hits(query, exact=True)
        page = self._page(query, answer, passing)
        return replace(page, candidates=min(target, answer.total, passing.total))

    def _cut_vector(self, query: EngineQuery) -> Page:
        """Return the nearest that are cut off, or sorted: total and facets count just these."""
        target = target_hits(query)
        answer, passing = self._joined(replace(query, candidates=target), target)
        cut = query.collapse or query.min_score is not None or query.min_cosine is not None
        if passing is None and cut:
            passing = self._count(replace(query, facets=())).total
        page = self._page(query, answer)
        if query.sort is not None or passing is None:
            return replace(page, at_least=cut and target <= answer.total < (passing or 0))
        more = target <= answer.total < passing
        return replace(page, candidates=min(target, passing), at_least=more)

    def _joined(self, query: EngineQuery, wanted: int) -> tuple[SearchAnswer, int | None]:
        """Return an answer for which the `wanted` nearest that pass the filters are looked for.

        And how many pass, where that had to be counted. No document beyond those nearest is
        matched by its vector.
        """
        are_all_compared = bool(query.terms.required) and query.ranking.uses_words
        if are_all_compared or not (_is_restricted(query) or query.exact):
            return self._hits(query), None
        passing = self._count(replace(query, facets=())).total
        exact = query.exact or self._compare_all(query, passing)
        if not exact:
            nearest = queries.nearest_body(query, self.info, self.timeout, 0, exact=False)
            exact = self._too_few(self.ask(nearest), min(wanted, passing))
        if not exact:
            return self._hits(query), passing
        least = None if passing <= wanted else self._least_cosine(query)
        return self._hits(query, exact=True, least_cosine=least), passing

    def _compare_all(self, query: EngineQuery, passing: int) -> bool:
        """Return whether to ask exactly at once, for the sake of the filters."""
        if not _is_restricted(query):
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

    def _found(self, query: EngineQuery) -> tuple[tuple[Document, ...], int]:
        """Return what a list has on its page, and its total. Raises EngineError for a part."""
        answer = self._hits(query)
        if answer.partial is not None:
            raise EngineError(f"a radius needs a whole answer: {answer.partial}")
        return tuple(hit.document for hit in answer.hits), answer.total

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
        if query.all_values and listed.cut_facets:
            raise TooManyValuesError(
                f"{listed.cut_facets[0]} has more values than the"
                f" {queries.most_facet_values(query):,} that Vespa names"
            )
        # Vespa orders equal scores as it likes; within the page they are put in order.
        hits, total, at_least = answer.collapsed or answer.hits, listed.total, False
        if query.sort is not None and query.sort.is_by_number:
            hits = self._numbered(hits, -1 if query.sort.descending else 1)
        elif query.mode is not None and query.sort is None:
            hits = tuple(sorted(hits, key=lambda hit: (-hit.score, hit.document.id)))
        hits = tuple(_as_asked(hit, query) for hit in hits)
        if query.collapse:
            hits = hits[query.offset :]
        if query.is_cut_after_ranking:
            looked_at = len(hits)
            hits = tuple(hit for hit in hits if hit.score >= (query.min_score or 0.0))
            total, at_least = len(hits), looked_at == len(hits) < listed.total
            hits = hits[query.offset :]
        return Page(
            hits=hits,
            total=total,
            offset=query.offset,
            facets={column: listed.facets.get(column, ()) for column in query.facets},
            notes=self._notes(query, listed),
            partial=answer.partial or listed.partial,
            at_least=at_least,
        )

    @staticmethod
    def _numbered(hits: tuple[Hit, ...], sign: int) -> tuple[Hit, ...]:
        """Return hits with the number they were sorted by as their score, equal ones by id.

        Vespa sorts by scores, which fall: for a rising order they are the numbers' opposites.
        """
        numbered = [replace(hit, score=-sign * hit.score + 0.0) for hit in hits]
        return tuple(sorted(numbered, key=lambda hit: (sign * hit.score, hit.document.id)))

    def _notes(self, query: EngineQuery, listed: SearchAnswer) -> tuple[str, ...]:
        most = queries.most_facet_values(query)
        notes = [
            f"{column} has more values than the {most:,} most frequent shown"
            for column in listed.cut_facets
        ]
        if query.sort is not None and query.sort.is_by_number:
            notes += without_value(query.sort.by, None)
        if query.is_cut_after_ranking and query.facets:
            notes.append(UNCUT_FACETS)
        earlier = self.info.document_form < FILTER_FORM
        if query.filters and query.ranking.needs_vector and earlier:
            notes.append(EARLIER_FORM)
        return tuple(notes)


def _as_asked(hit: Hit, query: EngineQuery) -> Hit:
    """Return the hit with the parts of its score that the mode has; a profile may have more."""
    ranking = query.ranking
    return replace(
        hit,
        bm25=hit.bm25 if ranking.uses_words else None,
        cosine=hit.cosine if ranking.needs_vector else None,
    )


def _is_restricted(query: EngineQuery) -> bool:
    """Return whether documents may be kept out that the vector is near to."""
    return bool(query.filters) or query.terms.restrict
