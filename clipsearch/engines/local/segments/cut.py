"""Captions cut into words, each different word once: what a segment is written from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from clipsearch.text import tokens_of_words, words

Ints = npt.NDArray[np.integer]


class _Numbers(dict[str, int]):
    """Numbers of words, in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


@dataclass(frozen=True, slots=True)
class CutCaptions:
    """The words of the captions of rows.

    Attributes:
        words: Those that are different, as `clipsearch.text.words` gives them.
        numbers: int64[m], the place in `words` of each that stands in a caption, row after row.
        lengths: int64[n], the words of each row.
    """

    words: Sequence[str]
    numbers: Ints
    lengths: Ints

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]]) -> Self:
        """Cut the captions of rows."""
        found: list[str] = []
        lengths: list[int] = []
        for each in captions:
            before = len(found)
            for caption in each:
                found += words(caption)
            lengths.append(len(found) - before)
        numbers = _Numbers()
        of_each = np.fromiter(map(numbers.__getitem__, found), np.int64, len(found))
        return cls(list(numbers), of_each, np.array(lengths, np.int64))

    def rows(self) -> Ints:
        """Return the row of each word that stands in a caption."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def terms(self, language: str) -> tuple[list[str], Ints]:
        """Return the different tokens, ascending, and the place of that of each of `words`."""
        return ranked(tokens_of_words(self.words, language))


def ranked(texts: Sequence[str]) -> tuple[list[str], Ints]:
    """Return the different texts, ascending (as UTF-8, too), and the place of each text in them."""
    different = sorted(set(texts))
    place = {text: number for number, text in enumerate(different)}
    return different, np.fromiter(map(place.__getitem__, texts), np.int64, len(texts))
