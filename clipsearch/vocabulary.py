"""The words of an index as they are written: those that begin alike, and those spelled alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHORTEST_CORRECTED = 3
"""Letters of a word that may be misspelled: with fewer, everything is near."""
_TWO_EDITS_FROM = 6


@dataclass(frozen=True, slots=True)
class WordCount:
    """A word, as `clipsearch.text.words` gives it, and the documents whose captions hold it."""

    word: str
    documents: int


@dataclass(frozen=True, slots=True)
class Correction:
    """A word of a query that no document has, and words of the index that are spelled alike.

    Attributes:
        word: As it is looked for: in lower case, without accents.
        suggestions: The nearest first, of equally near ones the most frequent.
    """

    word: str
    suggestions: tuple[WordCount, ...]

    def __str__(self) -> str:
        """Return the question for people."""
        meant = " or ".join(f'"{each.word}"' for each in self.suggestions)
        return f'no caption has "{self.word}"; did you mean {meant}?'


def most_edits(word: str) -> int:
    """Return by how many letters a word may differ: 1, or 2 from six letters on; 0 for no word.

    A word is one of at least SHORTEST_CORRECTED characters, none of them a digit.
    """
    if len(word) < SHORTEST_CORRECTED or any(character.isdigit() for character in word):
        return 0
    return 2 if len(word) >= _TWO_EDITS_FROM else 1


def spelled_alike(word: str, known: Sequence[str]) -> dict[str, int]:
    """Return those of `known` that differ by at most `most_edits`, each with by how many letters.

    Levenshtein's distance: letters put in, left out or replaced.
    """
    from rapidfuzz import process  # light path: most queries have no misspelled word
    from rapidfuzz.distance import Levenshtein  # light path: most queries have no misspelled word

    most = most_edits(word)
    if not most:
        return {}
    found = process.extract(word, known, scorer=Levenshtein.distance, score_cutoff=most, limit=None)
    return {text: int(distance) for text, distance, _ in found if distance}


def nearest_first(word: str, counts: Iterable[WordCount], limit: int) -> tuple[WordCount, ...]:
    """Return the words spelled like this one: the nearest first, then the most frequent."""
    held = {each.word: each for each in counts}
    distances = spelled_alike(word, list(held))
    return tuple(
        sorted(
            (held[text] for text in distances),
            key=lambda each: (distances[each.word], -each.documents, each.word),
        )[:limit]
    )


def most_frequent(counts: Iterable[WordCount], limit: int) -> tuple[WordCount, ...]:
    """Return the words that most documents hold, equally frequent ones in their order."""
    return tuple(sorted(counts, key=lambda each: (-each.documents, each.word))[:limit])
