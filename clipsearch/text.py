"""Text analysis: tokens exactly as the Vespa application makes them.

1. Cut: runs of letters, marks and digits are words; every pictograph is a token of its own; all
   else separates. Characters are classified as they stand in the text, before any normalisation.
2. Normalise: NFKC, lower case, NFD, then accents (U+0300 to U+036F) dropped. The text stays
   decomposed, as Vespa leaves it (Hangul too).
3. Stem: Snowball of the language, with Vespa's one exception in English.

Documents and queries pass through the same function, so that what is written is what is found.
"""

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import Stemmer

from finetune.errors import UsageError

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "en": "english",
        "es": "spanish",
        "fr": "french",
        "it": "italian",
        "nl": "dutch",
        "pt": "portuguese",
        "sv": "swedish",
    }
)

_WORD_CATEGORIES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nl", "Nd", "No"))
_PICTOGRAPH_CATEGORY = "So"
_ACCENTS = dict.fromkeys(range(0x0300, 0x0370))
_STEMS_REMEMBERED = 65536
_ASCII_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it stands: `original_text[start:end]`; `word` is what was stemmed."""

    text: str
    start: int
    end: int
    word: str = ""


def tokens(text: str, language: str = "en") -> list[str]:
    """Return the index tokens of `text`, in order, repeats kept.

    Raises UsageError for a language that is not in LANGUAGES.
    """
    stem = _stemmer(language)
    if text.isascii():  # no marks, no pictographs: five times as quick
        return list(map(stem, _ASCII_WORD.findall(text.lower())))
    return [stem(_normalize(text[start:end])) for start, end in _cut(text)]


def tokens_of_words(words: Iterable[str], language: str = "en") -> list[str]:
    """Return the token of each word of `words`. Raises UsageError as `tokens` does."""
    return list(map(_stemmer(language), words))


def token_spans(text: str, language: str = "en") -> list[Token]:
    """Return the tokens of `tokens`, each with its place in the original text for highlighting."""
    stem = _stemmer(language)
    if text.isascii():  # as in `tokens`
        found = [(each.group(), *each.span()) for each in _ASCII_WORD.finditer(text.lower())]
    else:
        found = [(_normalize(text[start:end]), start, end) for start, end in _cut(text)]
    return [Token(stem(word), start, end, word) for word, start, end in found]


def words(text: str) -> list[str]:
    """Return what `tokens` stems: the words of `text` in lower case and without accents, in order.

    As many as `tokens` gives, and in its order, whatever the language.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [_normalize(text[start:end]) for start, end in _cut(text)]


def is_separator(character: str) -> bool:
    """Return whether the character is part of no token."""
    return _kind(character) == "separator"


def check_language(language: str) -> None:
    """Raise UsageError unless the language is one whose tokens equal Vespa's."""
    if language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise UsageError(f"unknown language {language!r}: the text analysis knows {known}")


def _cut(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every word and pictograph."""
    start = None
    for position, character in enumerate(text):
        kind = _kind(character)
        if kind == "word":
            if start is None:
                start = position
            continue
        if start is not None:
            yield start, position
            start = None
        if kind == "pictograph":
            yield position, position + 1
    if start is not None:
        yield start, len(text)


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category in _WORD_CATEGORIES:
        return "word"
    return "pictograph" if category == _PICTOGRAPH_CATEGORY else "separator"


@lru_cache(maxsize=_STEMS_REMEMBERED)
def _normalize(word: str) -> str:
    if word.isascii():
        return word.lower()
    lowered = unicodedata.normalize("NFKC", word).lower()
    return unicodedata.normalize("NFD", lowered).translate(_ACCENTS)


class _ThreadStemmers(threading.local):
    """PyStemmer's objects are not safe to share: each thread makes its own."""

    def __init__(self) -> None:
        self.by_language: dict[str, Callable[[str], str]] = {}


_thread = _ThreadStemmers()


def _stemmer(language: str) -> Callable[[str], str]:
    """Return the stemming function of this thread."""
    found = _thread.by_language.get(language)
    if found is not None:
        return found
    check_language(language)
    # Our cache replaces the stemmer's own, which is slow to evict.
    snowball: Callable[[str], str] = Stemmer.Stemmer(LANGUAGES[language], 0).stemWord

    def stem_english(word: str) -> str:
        stem = snowball(word)
        # Vespa's Snowball keeps add(ed), egg(ed), off(ed), err(ed); version 2.2 undoubles them.
        if len(stem) == 2 and stem[0] in "aeo" and word[1:3] == stem[1] * 2 and word[0] == stem[0]:
            return stem + stem[1]
        return stem

    stem = lru_cache(maxsize=_STEMS_REMEMBERED)(stem_english if language == "en" else snowball)
    _thread.by_language[language] = stem
    return stem
