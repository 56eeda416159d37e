"""What the terms of a query match in one version of the index, and what that is worth.

The rows of a word and of the beginning of words are looked up. A segment does not say where in a
caption a word stands: the rows that hold all words of a phrase have their captions read and cut, so
that a phrase costs as many documents as hold its rarest word, at most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipsearch.engine import EngineQuery
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.segments.metadata import Mask
from clipsearch.engines.local.words.written import Captions, written_words
from clipsearch.phrases import occurrences
from clipsearch.ranking import RowNumbers, inverse_document_frequency, term_impacts
from clipsearch.terms import Term, Terms

MATCHED = np.finfo(np.float32).tiny
"""The bm25 of a row that matches and has none: above 0, and below any other."""


def without_mark(score: np.floating) -> float:
    """Return a score, 0 for that of a match that adds nothing."""
    return 0.0 if 0 < score <= MATCHED else float(score)


@dataclass
class Matching:
    """The terms of queries against a collection.

    Attributes:
        collection: The version of the index.
        captions: Of rows of the collection.
        language: Of the text analysis.
    """

    collection: Collection
    captions: Captions
    language: str
    _phrases: dict[tuple[str, ...], tuple[RowNumbers, npt.NDArray[np.int64]]] = field(
        default_factory=dict
    )

    def bm25(self, query: EngineQuery) -> npt.NDArray[np.float32]:
        """Return the bm25 of each row, float32[rows], above 0 exactly where a term matches.

        It is MATCHED where only the beginning of a word does.
        """
        scored = query.scored
        scores = self.collection.bm25([term.tokens[0] for term in scored if len(term.tokens) == 1])
        for term in scored:
            if len(term.tokens) > 1:
                rows, worth = self._phrase_bm25(term)
                scores[rows] += worth
        for term in query.terms.looked_for:
            if term.is_prefix:
                rows = self.rows(term)
                scores[rows] = np.maximum(scores[rows], MATCHED)
        return scores

    def keep_to(self, terms: Terms, mask: Mask) -> None:
        """Clear the mask, bool[rows], where a required term is not, or one that is left out is."""
        for alternatives in terms.required:
            held = np.zeros(len(mask), bool)
            for term in alternatives:
                held[self.rows(term)] = True
            mask &= held
        for term in terms.excluded:
            mask[self.rows(term)] = False

    def rows(self, term: Term) -> RowNumbers:
        """Return the rows that match a term and are not gone."""
        if term.is_prefix:
            return self._in_parts(lambda place: self._beginning(place, term.tokens[0]))
        if len(term.tokens) == 1:
            return self._in_parts(lambda place: self._holding(place, term.tokens))
        return self._phrase(term.tokens)[0]

    def _in_parts(self, find: Callable[[int], npt.NDArray[np.integer]]) -> RowNumbers:
        """Return the rows that `find` finds in each part, without those that are gone."""
        found = [np.zeros(0, np.int64)]
        for place, part in enumerate(self.collection.parts):
            rows = find(place)
            rows = rows[part.kept[rows]] if len(part.gone) else rows
            found.append(rows.astype(np.int64) + self.collection.bases[place])
        return np.concatenate(found)

    def _beginning(self, place: int, prefix: str) -> npt.NDArray[np.integer]:
        part, base = self.collection.parts[place], self.collection.bases[place]
        words = written_words(part, lambda rows: self.captions([row + base for row in rows]))
        first, last = words.starting_with(prefix)
        return words.rows(first, last)

    def _holding(self, place: int, tokens: Sequence[str]) -> npt.NDArray[np.integer]:
        """Return the rows of a part that hold all of the tokens, ascending."""
        postings = self.collection.parts[place].segment.postings
        numbers = [postings.find(token) for token in dict.fromkeys(tokens)]
        lists = [postings.of_term(number)[0] for number in numbers if number is not None]
        if len(lists) < len(numbers):
            return np.zeros(0, np.int64)
        rows, *others = sorted(lists, key=len)
        for other in others:
            at = np.minimum(np.searchsorted(other, rows), len(other) - 1)
            rows = rows[other[at] == rows]
        return rows

    def _phrase(self, tokens: tuple[str, ...]) -> tuple[RowNumbers, npt.NDArray[np.int64]]:
        """Return the rows with the phrase, and how often each has it."""
        if tokens not in self._phrases:
            rows = self._in_parts(lambda place: self._holding(place, tokens))
            counts = np.array(
                [
                    occurrences(tokens, captions, self.language)
                    for captions in self.captions(rows.tolist())
                ],
                np.int64,
            )
            self._phrases[tokens] = rows[counts > 0], counts[counts > 0]
        return self._phrases[tokens]

    def _phrase_bm25(self, term: Term) -> tuple[RowNumbers, npt.NDArray[np.float32]]:
        rows, counts = self._phrase(term.tokens)
        collection = self.collection
        # A phrase is as rare as its rarest word.
        fewest = min(collection.holding(token) for token in term.tokens)
        idf = inverse_document_frequency(collection.documents, fewest)
        impacts = term_impacts(counts, collection.lengths(rows), collection.average_length)
        return rows, (idf * impacts).astype(np.float32)
