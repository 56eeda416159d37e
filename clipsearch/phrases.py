"""Phrases in captions: tokens side by side, in their order, within one caption."""

from collections.abc import Iterable, Sequence

from clipsearch.text import tokens


def occurrences(phrase: Sequence[str], captions: Iterable[str], language: str = "en") -> int:
    """Count how often the tokens stand side by side, in all captions together.

    One token is a phrase too. Occurrences may share words: "a b a" is twice in "a b a b a".
    """
    wanted = list(phrase)
    count = 0
    for caption in captions:
        held = tokens(caption, language)
        last = len(held) - len(wanted)
        count += sum(held[start : start + len(wanted)] == wanted for start in range(last + 1))
    return count
