"""Words of a segment as they are written, unstemmed: which rows hold each.

Beginnings of words are looked for among these, and words to suggest: a stem is neither. A segment
of an earlier version has none; they are then made of its documents' captions.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from clipsearch.engines.local.segments.cut import CutCaptions, ranked
from clipsearch.engines.local.segments.sections import Array, Sections
from clipsearch.engines.local.segments.strings import Strings, strings_as_arrays

Ints = npt.NDArray[np.integer]

NAME = "words"


class Words:
    """The written words under their name of `Sections`."""

    def __init__(self, sections: Sections) -> None:
        self._sections = sections
        self.texts = Strings(sections, NAME)

    def rows(self, first: int, last: int) -> Ints:
        """Return the rows with any word from place `first` to before `last`, ascending."""
        start, end = self._sections.part("word_starts", first, last + 1)[[0, -1]].tolist()
        held = self._sections.part("word_rows", start, end)
        return held if last - first == 1 else np.unique(held)

    def starting_with(self, prefix: str) -> tuple[int, int]:
        """Return the places of the words that begin so: the first, and the one after the last."""
        text = prefix.encode()
        # No text has this byte, so that it stands after all that goes on.
        return self.texts.place_of(text), self.texts.place_of(text + b"\xff")

    def pairs(self) -> tuple[list[bytes], Ints, Ints]:
        """Return the words, and the place of a word and the row of each match."""
        starts = self._sections.array("word_starts")
        places = np.repeat(np.arange(len(self.texts)), np.diff(starts))
        return self.texts.all(), places, self._sections.array("word_rows")


def words_in(sections: Sections) -> Words | None:
    """Return the written words of a segment; None where it is of an earlier version."""
    return Words(sections) if "word_rows" in sections else None


def words_of(captions: Iterable[Sequence[str]]) -> Words:
    """Return the written words of rows with these captions, in memory."""
    arrays = word_arrays(CutCaptions.of(captions))
    return Words(Sections(arrays, {"counts": {NAME: len(arrays["word_starts"]) - 1}}))


def word_arrays(cut: CutCaptions) -> dict[str, Array]:
    """Return the arrays of `Words` for the captions of all rows, in their order."""
    different, place = ranked(cut.words)
    width = max(len(cut.lengths), 1)
    word_of_match, rows = np.divmod(np.unique(place[cut.numbers] * width + cut.rows()), width)
    return {
        **strings_as_arrays(NAME, [word.encode() for word in different]),
        "word_starts": np.searchsorted(word_of_match, np.arange(len(different) + 1)),
        "word_rows": rows.astype(np.int32),
    }


def merged_words(sources: Iterable[tuple[Words, Ints]]) -> dict[str, Array]:
    """Return the arrays of several.

    With each come the new row of each of its rows, -1 for one that is gone.
    """
    numbers: dict[bytes, int] = {}
    held: list[Ints] = [np.zeros(0, np.int64)]
    rows: list[Ints] = [np.zeros(0, np.int64)]
    for source, new_row in sources:
        texts, places, old = source.pairs()
        number = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
        row = new_row[old]
        live = row >= 0
        held.append(number[places[live]])
        rows.append(row[live])
    return _arrays(list(numbers), np.concatenate(held), np.concatenate(rows))


def _arrays(texts: Sequence[bytes], numbers: Ints, rows: Ints) -> dict[str, Array]:
    """Return the arrays of matches, in any order; words without any are left out."""
    used = np.unique(numbers).tolist()
    ordered = sorted(used, key=texts.__getitem__)
    place = np.zeros(len(texts), np.int64)
    place[ordered] = np.arange(len(ordered))
    own = place[numbers]
    order = np.lexsort((rows, own))
    starts = np.searchsorted(own[order], np.arange(len(ordered) + 1))
    return {
        **strings_as_arrays(NAME, [texts[number] for number in ordered]),
        "word_starts": starts.astype(np.int64),
        "word_rows": rows[order].astype(np.int32),
    }
