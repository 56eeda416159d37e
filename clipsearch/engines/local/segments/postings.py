"""Posting lists of a segment: which documents hold a term, and what each match is worth.

A posting is a row and the number of a pair (how often the term is in the document, how long that
is). What a pair is worth depends on the average length of the whole index, so that it is worked
out at the query: a table of some hundred pairs, not of millions of postings. So bm25 is exact
however many segments there are, and whatever was deleted since.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.cut import CutCaptions
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.strings import Strings, strings_as_arrays
from clipsearch.ranking import term_impacts

Ints = npt.NDArray[np.integer]


class Postings:
    """The lexical side of a segment.

    `lengths` are the tokens of each row, int32.
    """

    def __init__(self, sections: Sections) -> None:
        self._sections = sections
        self.terms = Strings(sections, "terms")

    @property
    def lengths(self) -> Ints:
        """Tokens of each row."""
        return self._sections.array("lengths")

    def find(self, term: str) -> int | None:
        """Return the number of a term; None where no row has it."""
        return self.terms.find(term.encode())

    def matching(self, number: int) -> int:
        """Count the rows that hold the term, deleted ones included."""
        start, end = self._range(number)
        return end - start

    def of_term(self, number: int) -> tuple[Ints, Ints]:
        """Return the rows, ascending, that hold the term, and the pair of each."""
        start, end = self._range(number)
        return self._sections.part("rows", start, end), self._sections.part("pairs", start, end)

    def impacts(self, average_length: float) -> npt.NDArray[np.float32]:
        """Return what each pair is worth: bm25 of such a match without its idf."""
        pairs = self._sections.array("pair_table").astype(np.int64)
        return term_impacts(pairs[:, 0], pairs[:, 1], average_length).astype(np.float32)

    def terms_of(self, rows: Ints, tokens: Sequence[Sequence[str]]) -> Ints:
        """Return the numbers of the terms of these rows, row after row.

        This is what a deletion takes away.

        `tokens` are those of the rows' documents. Where they are not what was cut when the rows
        were written (another version of Python may cut otherwise), the postings are looked
        through instead.
        """
        found = [[self.find(term) for term in dict.fromkeys(each)] for each in tokens]
        lengths = self._sections.array("lengths")[rows]
        known = all(
            length == len(each) and None not in numbers
            for length, each, numbers in zip(lengths.tolist(), tokens, found, strict=True)
        )
        numbers = np.array(list(chain.from_iterable(found)) if known else [], np.int32)
        if known and self._are_of(rows, found):
            return numbers
        inside = np.flatnonzero(np.isin(self._sections.array("rows"), rows))
        starts = self._sections.array("term_starts")
        return (np.searchsorted(starts, inside, side="right") - 1).astype(np.int32)

    def _are_of(self, rows: Ints, found: Sequence[Sequence[int | None]]) -> bool:
        for row, numbers in zip(rows.tolist(), found, strict=True):
            for number in numbers:
                listed, _ = self.of_term(number or 0)
                place = int(np.searchsorted(listed, row))
                if place == len(listed) or listed[place] != row:
                    return False
        return True

    def _range(self, number: int) -> tuple[int, int]:
        start, end = self._sections.part("term_starts", number, number + 2).tolist()
        return start, end


def postings_of(cut: CutCaptions, language: str) -> dict[str, Array]:
    """Return the arrays of `Postings` for the captions of all rows, in their order."""
    terms, of_word = cut.terms(language)
    width = max(len(cut.lengths), 1)
    # Sorting one integer a token puts equal (term, row) pairs side by side.
    matches, frequencies = np.unique(of_word[cut.numbers] * width + cut.rows(), return_counts=True)
    term_of_match, rows = np.divmod(matches, width)
    encoded = [term.encode() for term in terms]
    return arrays_of(encoded, term_of_match, rows, frequencies, cut.lengths)


def arrays_of(
    terms: Sequence[bytes], term_of_match: Ints, rows: Ints, frequencies: Ints, lengths: Ints
) -> dict[str, Array]:
    """Return the arrays of `Postings`.

    Args:
        terms: Ascending.
        term_of_match: Of each match, ascending.
        rows: Of each match, ascending within a term.
        frequencies: Of the term in the row.
        lengths: Of each row.
    """
    pairs = frequencies.astype(np.int64) << 32 | lengths[rows].astype(np.int64)
    known, of_match = np.unique(pairs, return_inverse=True)
    table = np.stack([known >> 32, known & 0xFFFFFFFF], axis=1).astype(np.uint32)
    return {
        **strings_as_arrays("terms", terms),
        "term_starts": np.searchsorted(term_of_match, np.arange(len(terms) + 1)).astype(np.int64),
        "rows": rows.astype(np.int32),
        "pairs": of_match.astype(smallest(len(known))),
        "pair_table": table.reshape(-1, 2),
        "lengths": lengths.astype(np.int32),
    }


def smallest(count: int) -> type[np.unsignedinteger]:
    """Return the smallest unsigned type for numbers from 0 to below `count`."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32
