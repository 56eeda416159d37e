"""What a ledger keeps: of a document, and of a feed that has begun."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from clipsearch.documents import PARTS, Document

HASH_CHARACTERS = 64  # of a sha256 in hex

# Hashed in this order since the first version. What came later is hashed only where a document has
# it, so that the hashes of others, in ledgers that are there, stay true.
_FIRST_FIELDS = ("captions", "path", "tags", "numbers")
_FIRST_KINDS = tuple((name, PARTS[name].kind.ordered) for name in _FIRST_FIELDS)
_LATER_KINDS = tuple(
    (name, part.kind.ordered)
    for name, part in PARTS.items()
    if name not in (*_FIRST_FIELDS, "data_set", "content", "look")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a document of the index was made from, as far as is known.

    Attributes:
        id: The document's.
        stamp: Of the image's bytes (`clipsearch.feed.contents.stamp_of`): while it is the same,
            they need not be read again. Empty for ready-made vectors, and where it is not known.
        content: sha256 of the image's bytes, or of the ready-made vector; empty where it is not
            known, and the document is then written whole.
        encoder: Fingerprint; empty for ready-made vectors.
        fields: Hash of everything in the document but its embedding (`hash_of_fields`).
        data_set: That it comes from; empty where an earlier version wrote it and nobody has
            claimed it since.
        size: Of the image, in bytes; 0 where it is not known. What is of another size need not be
            hashed to be known as another image.
    """

    id: str
    stamp: str
    content: str
    encoder: str
    fields: str
    data_set: str = ""
    size: int = 0

    def to_row(self) -> tuple[str | bytes | int, ...]:
        """Return it as SQLite keeps it, in the order of the fields.

        Hashes are kept as their bytes, half as many.
        """
        return (
            self.id,
            self.stamp,
            packed(self.content),
            packed(self.encoder),
            packed(self.fields),
            self.data_set,
            self.size,
        )

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Self:
        """Read what `to_row` gave, or an earlier version wrote, with hashes in hex."""
        id, stamp, content, encoder, fields, data_set, size = row
        return cls(
            id, stamp, _unpacked(content), _unpacked(encoder), _unpacked(fields), data_set, size
        )


def packed(text: str) -> str | bytes:
    """Give the bytes of a hash in hex; any other text is as it is."""
    if len(text) != HASH_CHARACTERS:
        return text
    try:
        held = bytes.fromhex(text)
    except ValueError:
        return text
    return held if held.hex() == text else text


def _unpacked(held: str | bytes) -> str:
    return held if isinstance(held, str) else held.hex()


@dataclass(frozen=True, slots=True)
class PendingFeed:
    """A feed that this ledger has begun, and not ended: at work, or killed.

    Attributes:
        token: That stands in the index for it (`IndexInfo.open_feeds`).
        data_set: That it writes; empty where it only deletes.
        agreed_after: Token of the feed after which the ledger said what the index held; None where
            it did not.
    """

    token: str
    data_set: str
    agreed_after: str | None


def hash_of_fields(document: Document) -> str:
    """Return a sha256, in hex, that changes with any field but embedding, content and look."""
    return hashlib.sha256(orjson.dumps(_all_fields(document))).hexdigest()


def hashed_fields(documents: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """Return, of each document, the JSON whose sha256 `hash_of_fields` is.

    `documents` are the values of all parts, by name.
    """
    first = [map(ordered, documents[name]) for name, ordered in _FIRST_KINDS]
    rows: Iterable[Sequence[object]] = zip(*first, documents["data_set"], strict=True)
    for name, ordered in _LATER_KINDS:
        rows = (
            (*row, [name, ordered(value)]) if value else row
            for row, value in zip(rows, documents[name], strict=True)
        )
    return list(map(orjson.dumps, rows))


def is_hash_of(hash: str, document: Document) -> bool:
    """Return whether a ledger, perhaps of an earlier version, has this hash of the document."""
    return hash == hash_of_fields(document) or hash in hashes_before(document)


def hashes_before(document: Document) -> tuple[str, str]:
    """Return what earlier versions had in the place of `hash_of_fields`, the last one first."""
    return _hash(_all_fields(document)), _hash(_fields(document))


def _fields(document: Document) -> list[object]:
    return [ordered(getattr(document, name)) for name, ordered in _FIRST_KINDS]


def _all_fields(document: Document) -> list[object]:
    later = [
        [name, ordered(value)]
        for name, ordered in _LATER_KINDS
        if (value := getattr(document, name))
    ]
    return [*_fields(document), document.data_set, *later]


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()
