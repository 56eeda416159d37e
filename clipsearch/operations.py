"""What a feed asks of an engine: documents put, changed and removed, and what became of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import PARTS, Document, storable_parts


@dataclass(frozen=True, slots=True)
class Upsert:
    """Put the whole document, new or not."""

    document: Document

    @property
    def id(self) -> str:
        """The document's id."""
        return self.document.id


@dataclass(frozen=True, slots=True, init=False)
class Update:
    """Change the named parts of a document that exists, each as a whole.

    >>> Update("a.jpg", captions=("two dogs",), tags={"class": "beach"})

    Attributes:
        id: The document's.
        parts: New values by name, of `clipsearch.documents.PARTS`; others stay as they are.
    """

    id: str
    parts: Mapping[str, Any]

    def __init__(self, id: str, **parts: Any) -> None:
        """Raise TypeError for a part that no document has; None leaves one as it is."""
        for name in parts.keys() - PARTS.keys():
            raise TypeError(f"a document has no part {name!r}: only {', '.join(PARTS)}")
        object.__setattr__(self, "id", id)
        kept = {name: value for name, value in parts.items() if value is not None}
        object.__setattr__(self, "parts", kept)

    def applied_to(self, document: Document) -> Document:
        """Return the document with the new values."""
        return replace(document, **self.parts)

    def storable(self) -> "Update":
        """Return the same with blanks for characters that no engine can hold."""
        return Update(self.id, **storable_parts(self.parts))


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the document; one that is not there counts as removed."""

    id: str


@dataclass(frozen=True, slots=True)
class UpsertMany:
    """Put many whole documents at once; only for an engine that `takes_many`.

    They are written together, and are there together.
    """

    documents: DocumentColumns

    @property
    def id(self) -> str:
        """That of the first document, which stands for all."""
        return self.documents.ids[0]


Operation = Upsert | Update | Delete | UpsertMany


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one operation.

    `error` is None once the engine has acknowledged it: the write is durable and visible to the
    next search. Otherwise it is one sentence with the reason. Of an UpsertMany, `refused` are the
    documents that were not written, with the reason of each, by their ids.
    """

    operation: Operation
    error: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
