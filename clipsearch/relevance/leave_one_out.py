"""Leave one caption out: each caption is a query, and its image is looked for without it.

So that the words are not found by their own copy, the caption counts as not written in every image
that has it; all these images are right. Two captions are the same where their tokens are (in case,
punctuation and inflection they may differ), or, where a caption has no token, where they are
equal but for case and white space.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from clipsearch.relevance.collection import Collection, Words
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.text import tokens

_Key = tuple[str, ...] | str


def caption_queries(
    collection: Collection, captions: Iterable[tuple[int, str]], language: str
) -> list[JudgedQuery]:
    """Make a query of each different caption, in the order in which they come.

    Args:
        collection: The index.
        captions: (row, caption) of the images that are asked for. One that the index does not
            hold is a query in other words, for which nothing has to be left out.
        language: Of the text analysis.
    """
    holders = _holders(collection)
    asked: dict[_Key, str] = {}
    rows_of: dict[_Key, list[int]] = {}
    for row, caption in captions:
        key = _key(caption, tuple(tokens(caption, language)))
        asked.setdefault(key, caption)
        rows = rows_of.setdefault(key, [])
        if row not in rows:
            rows.append(row)
    return [
        _query(collection, text, rows_of[key], holders.get(key, {})) for key, text in asked.items()
    ]


def _query(
    collection: Collection, text: str, asked: Sequence[int], held: dict[int, list[Words]]
) -> JudgedQuery:
    right = list(dict.fromkeys([*asked, *held]))
    other = any(
        sum(map(bool, collection.caption_words[row])) > sum(map(bool, held.get(row, ())))
        for row in right
    )
    return JudgedQuery(
        key=text,
        text=text,
        grades={collection.documents[row].id: 1 for row in right},
        cluster=right[0],
        removed={row: tuple(chain.from_iterable(words)) for row, words in held.items()},
        other_captions=other,
    )


def _holders(collection: Collection) -> dict[_Key, dict[int, list[Words]]]:
    """Map each different caption to the rows that have it, with the tokens of all its copies."""
    found: dict[_Key, dict[int, list[Words]]] = {}
    for row, document in enumerate(collection.documents):
        for caption, words in zip(document.captions, collection.caption_words[row], strict=True):
            found.setdefault(_key(caption, words), {}).setdefault(row, []).append(words)
    return found


def _key(caption: str, words: Words) -> _Key:
    return words or " ".join(caption.casefold().split())
