"""Synonyms from a file, for the words of a query: documents stay as they are.

The format is that of Solr and Elasticsearch (synonyms.txt), a rule a line:

    car, automobile, motor car     any of these stands for all of them
    tv, telly => television        what is left of the arrow is replaced by what is right
    # a comment

Several words are a phrase; a comma that belongs to a text is written \\,. Words are compared as in
the index, stemmed: a rule for "car" holds for "cars".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

from clipsearch.text import tokens
from finetune.errors import UsageError
from finetune.files.regular_files import what_lies_at
from finetune.near_names import did_you_mean

Words = tuple[str, ...]

MAX_BYTES = 16 << 20
_ESCAPED_COMMA = "\\,"


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of the file, in the words that it is written in.

    Attributes:
        given: What is looked for in a query.
        meant: What is looked for in the captions instead.
    """

    given: tuple[str, ...]
    meant: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Synonyms:
    """The rules of a file.

    >>> Synonyms.read("synonyms.txt")
    """

    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file in UTF-8.

        Raises UsageError, naming the line, where it cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            reason = what_lies_at(path) or f"no such file{did_you_mean(path)}"
            raise UsageError(f"{path}: {reason}; give a text file")
        try:
            if path.stat().st_size > MAX_BYTES:
                raise UsageError(f"{path}: is larger than {MAX_BYTES >> 20} MB; split it")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: is not in UTF-8; save it so") from error
        return cls(tuple(_rules(lines, path)))

    def in_words(self, language: str) -> "SynonymTable":
        """Return the rules as the words of a language are indexed."""
        return _table(self, language)


NO_SYNONYMS = Synonyms()


@dataclass(frozen=True)
class SynonymTable:
    """What stands for the words of a query, in tokens.

    Attributes:
        meant: Of the words that a rule is for, each text that stands for them, in the order of the
            file. Their own is among these where it counts as well.
    """

    meant: Mapping[Words, tuple[Words, ...]] = field(default_factory=dict)

    def of(self, words: Sequence[str]) -> tuple[Words, ...]:
        """Return what stands for these words together; they themselves without a rule."""
        return self.meant.get(tuple(words), (tuple(words),))

    def spread(self, words: Sequence[str]) -> Iterator[tuple[Words, tuple[Words, ...]]]:
        """Yield what rules are for in a row of words, longest first, and what stands for it.

        What no rule is for comes word by word.
        """
        longest = max(map(len, self.meant), default=1)
        place = 0
        while place < len(words):
            ends = range(min(len(words), place + longest), place, -1)
            end = next((e for e in ends if tuple(words[place:e]) in self.meant), place + 1)
            own = tuple(words[place:end])
            yield own, self.of(own)
            place = end


def _rules(lines: Sequence[str], path: Path) -> Iterator[Rule]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        sides = [_texts(side) for side in text.split("=>")]
        if len(sides) > 2 or not all(sides):
            raise UsageError(
                f"{path}:{number}: {text!r} is no rule; write a, b, c or a, b => c, with words on"
                f" each side"
            )
        yield Rule(sides[0], sides[-1])


def _texts(side: str) -> tuple[str, ...]:
    """Return the texts between commas; those without a word are left out."""
    parts = side.replace(_ESCAPED_COMMA, "\0").split(",")
    texts = (part.replace("\0", ",").strip() for part in parts)
    return tuple(text for text in texts if tokens(text))


@lru_cache(maxsize=8)
def _table(synonyms: Synonyms, language: str) -> SynonymTable:
    meant: dict[Words, dict[Words, None]] = {}
    for rule in synonyms.rules:
        right = [tuple(tokens(text, language)) for text in rule.meant]
        for text in rule.given:
            meant.setdefault(tuple(tokens(text, language)), {}).update(dict.fromkeys(right))
    return SynonymTable({given: tuple(each) for given, each in meant.items()})
