"""The words of an index as they are written: those that begin alike, and those spelled alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipsearch.function_words import FUNCTION_WORDS
from clipsearch.text import tokens

SHORTEST_CORRECTED = 4
"""Letters of a word that may be misspelled, and of what is meant: of fewer, everything is near."""
_TWO_MISTAKES_FROM = 7


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


def may_be_misspelled(word: str, language: str) -> bool:
    """Return whether a word is looked after: one with enough letters that shows something."""
    return most_edits(word) > 0 and word not in FUNCTION_WORDS[language]


def plausible(
    word: str, found: Iterable[WordCount], language: str, limit: int
) -> tuple[WordCount, ...]:
    """Return those of the words found that may be meant: nearest first, then most frequent.

    One letter is wrong, missing, too many or swapped with the next; of a word from seven letters on
    two are. The first is right, or swapped: who mistypes seldom mistypes that. What is meant is no
    short word and none that shows nothing; of two forms of a word only the better one is returned.
    """
    from rapidfuzz.distance import OSA  # light path: most queries have no misspelled word

    most = 2 if len(word) >= _TWO_MISTAKES_FROM else 1
    mistakes = {
        each: OSA.distance(word, each.word, score_cutoff=most)
        for each in found
        if may_be_misspelled(each.word, language) and _begins_alike(word, each.word)
    }
    kept: dict[str, WordCount] = {}
    for each in sorted(mistakes, key=lambda each: (mistakes[each], -each.documents, each.word)):
        if mistakes[each] <= most:
            kept.setdefault(tokens(each.word, language)[0], each)
    return tuple(kept.values())[:limit]


def _begins_alike(word: str, meant: str) -> bool:
    return word[0] == meant[0] or word[:2] == meant[1::-1]


def most_edits(word: str) -> int:
    """Return by how many letters a word of the index may differ to be looked at; 0 for no word.

    A word is one of at least SHORTEST_CORRECTED characters, none of them a digit. Two letters that
    were swapped differ by two.
    """
    if len(word) < SHORTEST_CORRECTED or any(character.isdigit() for character in word):
        return 0
    return 2


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
