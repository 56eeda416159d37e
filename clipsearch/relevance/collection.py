"""All documents of an index in memory, ranked exactly, also as if some captions were not there.

What a caption's removal does to bm25: its words are fewer in its document (or gone), the document
is shorter, so is the average one, and a word that stood nowhere else has a document less. All of
that is worked out for each query anew, from the counts; nothing is approximated.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipsearch.documents import Document
from clipsearch.ranking import inverse_document_frequency, term_impacts
from clipsearch.text import tokens
from finetune.arrays import Bools, Float32, Int64

Words = tuple[str, ...]
Removed = Mapping[int, Words]
"""Row to the tokens that are taken out of its captions."""

_NOTHING: Removed = {}


@dataclass(frozen=True, slots=True)
class Collection:
    """n documents, ascending by id: a row each. Holds about their text and n · d · 4 bytes.

    Attributes:
        documents: Without their embeddings.
        rows: Id to row.
        caption_words: Of each document, the tokens of each of its captions.
        lengths: int64[n], tokens of all captions of each.
        postings: Token to the rows that hold it, ascending, and how often; int64[r] each.
        embeddings: float32[n, d]; zeros where a document has none.
        embedded: bool[n], whether it has one.
    """

    documents: tuple[Document, ...]
    rows: Mapping[str, int]
    caption_words: tuple[tuple[Words, ...], ...]
    lengths: Int64
    postings: Mapping[str, tuple[Int64, Int64]]
    embeddings: Float32
    embedded: Bools

    def __len__(self) -> int:
        return len(self.documents)

    @classmethod
    def of(cls, documents: Iterable[Document], dimension: int, language: str) -> "Collection":
        """Gather all documents of an index, in any order, with their embeddings."""
        ordered = sorted(documents, key=lambda document: document.id)
        embeddings = np.zeros((len(ordered), dimension), np.float32)
        embedded = np.zeros(len(ordered), np.bool_)
        for row, document in enumerate(ordered):
            if document.embedding is not None:
                embeddings[row], embedded[row] = document.embedding, True
        plain = tuple(replace(document, embedding=None) for document in ordered)
        words = tuple(
            tuple(tuple(tokens(caption, language)) for caption in document.captions)
            for document in plain
        )
        counts = [Counter(word for caption in each for word in caption) for each in words]
        return cls(
            documents=plain,
            rows={document.id: row for row, document in enumerate(plain)},
            caption_words=words,
            lengths=np.array([each.total() for each in counts], np.int64),
            postings=_postings(counts),
            embeddings=embeddings,
            embedded=embedded,
        )

    def bm25(self, words: Sequence[str], removed: Removed = _NOTHING) -> Float32:
        """Work out bm25 of every document, float32[n], above 0 exactly where a word matches.

        Args:
            words: Tokens of the query, repeats kept.
            removed: What counts as not written. Grows with the postings of `words`.
        """
        scores = np.zeros(len(self), np.float32)
        total = int(self.lengths.sum()) - sum(map(len, removed.values()))
        average = total / len(self) if total else 1.0
        for word, repeats in Counter(words).items():
            rows, frequencies, lengths = self._occurrences(word, removed)
            if len(rows):
                weight = repeats * inverse_document_frequency(len(self), len(rows))
                impacts = term_impacts(frequencies, lengths, average).astype(np.float32)
                scores[rows] += impacts * np.float32(weight)
        return scores

    def holding(self, word: str, removed: Removed = _NOTHING) -> int:
        """Count the documents that hold the token."""
        return len(self._occurrences(word, removed)[0])

    def cosines(self, vectors: Float32) -> Float32:
        """Return the cosines of query vectors, float32[q, d], and all documents: float32[q, n].

        They are -inf for a document without a vector.
        """
        cosines: Float32 = vectors @ self.embeddings.T
        cosines[:, ~self.embedded] = -np.inf
        return cosines

    def _occurrences(self, word: str, removed: Removed) -> tuple[Int64, Int64, Int64]:
        """Return the rows with the word, how often each has it, and the rows' lengths."""
        nothing = np.zeros(0, np.int64)
        rows, frequencies = self.postings.get(word, (nothing, nothing))
        lengths = self.lengths[rows]
        if not removed or not len(rows):
            return rows, frequencies, lengths
        frequencies = frequencies.copy()
        for row, gone in removed.items():
            place = int(np.searchsorted(rows, row))
            if place < len(rows) and rows[place] == row:
                frequencies[place] -= gone.count(word)
                lengths[place] -= len(gone)
        left = frequencies > 0
        return rows[left], frequencies[left], lengths[left]


def _postings(counts: Sequence[Counter[str]]) -> dict[str, tuple[Int64, Int64]]:
    found: dict[str, tuple[list[int], list[int]]] = {}
    for row, words in enumerate(counts):
        for word, count in words.items():
            rows, frequencies = found.setdefault(word, ([], []))
            rows.append(row)
            frequencies.append(count)
    return {
        word: (np.array(rows, np.int64), np.array(frequencies, np.int64))
        for word, (rows, frequencies) in found.items()
    }
