"""Posting lists: which documents hold a term, and what each match is worth.

bm25 of every document is one addition for each posting of the query's terms, so totals, ties
and weighted sums are exact and need no second look at the documents. The arrays are plain numpy
files that a reader maps into memory: opening them takes no time however many documents there are.
"""

import bisect
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.arrays import map_array
from clipsearch.ranking import inverse_document_frequency, term_impacts


@dataclass(frozen=True, slots=True)
class Postings:
    """The lexical side of an index, built from all its documents at once.

    Attributes:
        documents: Rows, those without a token included (N of the idf).
        terms: Ascending.
        starts: int64[terms + 1], where the postings of each term begin.
        rows: int32[postings], ascending within a term.
        impacts: float32[postings], bm25 of the match without its idf.
    """

    documents: int
    terms: Sequence[str]
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    impacts: npt.NDArray[np.float32]

    @classmethod
    def build(
        cls,
        terms: Sequence[str],
        codes: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> "Postings":
        """From the tokens of all rows, one after another.

        Args:
            terms: Distinct, in any order.
            codes: Place in `terms` of every token.
            lengths: Tokens of each row.
        """
        documents = len(lengths)
        order = sorted(range(len(terms)), key=terms.__getitem__)
        sorted_code = np.empty(len(terms), np.int64)
        sorted_code[order] = np.arange(len(terms))
        row_of_token = np.repeat(np.arange(documents, dtype=np.int64), lengths)
        # Sorting one integer a token puts equal (term, row) pairs side by side.
        pairs, frequencies = np.unique(
            sorted_code[codes] * max(documents, 1) + row_of_token, return_counts=True
        )
        term_of_pair, rows = np.divmod(pairs, max(documents, 1))
        average = float(lengths.mean()) if documents and len(codes) else 1.0
        impacts = term_impacts(frequencies, lengths[rows], average)
        starts = np.searchsorted(term_of_pair, np.arange(len(terms) + 1))
        return cls(
            documents,
            [terms[place] for place in order],
            starts.astype(np.int64),
            rows.astype(np.int32),
            impacts.astype(np.float32),
        )

    def bm25(self, tokens: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32[documents]: bm25 of each, above 0 exactly where a token matches."""
        scores = np.zeros(self.documents, np.float32)
        for token, repeats in Counter(tokens).items():
            start, end = self._range(token)
            if start == end:
                continue
            weight = repeats * inverse_document_frequency(self.documents, end - start)
            # A row stands once in a list, so that += by index adds to each.
            scores[self.rows[start:end]] += self.impacts[start:end] * np.float32(weight)
        return scores

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`."""
        np.save(folder / "starts.npy", self.starts)
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "impacts.npy", self.impacts)
        text = json.dumps(list(self.terms), ensure_ascii=False)
        (folder / "terms.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, documents: int) -> "Postings":
        """Map the arrays that `save` wrote."""
        return cls(
            documents,
            json.loads((folder / "terms.json").read_text(encoding="utf-8")),
            map_array(folder / "starts.npy"),
            map_array(folder / "rows.npy"),
            map_array(folder / "impacts.npy"),
        )

    def _range(self, term: str) -> tuple[int, int]:
        place = bisect.bisect_left(self.terms, term)
        if place == len(self.terms) or self.terms[place] != term:
            return 0, 0
        return int(self.starts[place]), int(self.starts[place + 1])
