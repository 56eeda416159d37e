"""Words of the index to suggest, from the written words of its segments."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from clipsearch.engines.local.collection import Collection, Part
from clipsearch.engines.local.segments.words import Words
from clipsearch.engines.local.words.written import Captions, written_words
from clipsearch.vocabulary import WordCount, most_frequent, nearest_first, spelled_alike


def beginning_with(
    collection: Collection, captions: Captions, prefix: str, limit: int
) -> tuple[WordCount, ...]:
    """Return the most frequent words that begin so.

    The cost grows with the words that do, and their matches.
    """
    counts: Counter[str] = Counter()
    for part, words in _parts(collection, captions):
        _count(counts, part, words, range(*words.starting_with(prefix)))
    return most_frequent(_listed(counts), limit)


def spelled_like(
    collection: Collection, captions: Captions, word: str, limit: int
) -> tuple[WordCount, ...]:
    """Return the words that are spelled alike, the nearest first. Each word is compared."""
    counts: Counter[str] = Counter()
    for part, words in _parts(collection, captions):
        texts = [text.decode() for text in words.texts.all()]
        near = spelled_alike(word, texts)
        _count(counts, part, words, [at for at, text in enumerate(texts) if text in near])
    return nearest_first(word, _listed(counts), limit)


def _parts(collection: Collection, captions: Captions) -> Iterator[tuple[Part, Words]]:
    for part, base in zip(collection.parts, collection.bases, strict=False):

        def of_part(rows: Sequence[int], base: int = base) -> Sequence[Sequence[str]]:
            return captions([row + base for row in rows])

        yield part, written_words(part, of_part)


def _count(counts: Counter[str], part: Part, words: Words, places: Sequence[int]) -> None:
    """Add the documents of the words at these places; rows that are gone are none."""
    for place in places:
        rows = words.rows(place, place + 1)
        live = int(np.count_nonzero(part.kept[rows])) if len(part.gone) else len(rows)
        counts[words.texts[place].decode()] += live


def _listed(counts: Counter[str]) -> list[WordCount]:
    return [WordCount(word, count) for word, count in counts.items() if count]
