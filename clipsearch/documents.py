"""The document: what the feed writes and the engines hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from clipsearch.document_fields import NUMBERS, PART, PATH, TAGS, TEXT, TEXTS, DocumentField, part
from clipsearch.storable import is_plain, shown_id, why_no_id
from finetune.errors import DocumentError
from finetune.frames import frame_of
from finetune.several import is_one_text

if TYPE_CHECKING:
    import pandas as pd

Embedding = npt.NDArray[np.float32]

UNIT_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Document:
    """One image with all that is searched, filtered and shown.

    A new field is a line here, a field of the schema in `vespa_app/`, and whatever gives it a value
    (`clipsearch.feed.columns.document_of`).

    Attributes:
        id: Stable and unique; by default the image's path as the manifest gives it. What it may
            be: `clipsearch.storable.why_no_id`.
        captions: In the manifest's order; may be empty (the document is then found by vector).
        path: Where the image lies, as the manifest gave it (relative paths stay relative).
        tags: Column to value, as text; filters match the whole value, whatever its
            case and Unicode form. A date stands here as its text.
        numbers: Column to value; finite. A date stands here too, as its seconds: by them it is
            filtered and sorted.
        embedding: float32[d], unit length to 1e-3, finite. None where the document has none
            (`get` and `visit` may be asked to leave it out).
        data_set: Name of the manifest that it comes from (`clipsearch.feed.data_sets`); empty
            where an earlier version wrote it, and in the hits of a search on Vespa.
        content: sha256, in hex, of what the embedding was made from: the image's bytes, or the
            ready-made vector. Empty in the same cases.
        look: What near duplicates share, so that a search can show one of them: of an image its
            perceptual hash (`finetune.images.perceptual_hash`), of a ready-made vector `content`,
            or whatever `clipsearch duplicates --mark` has written. Where it is empty the document
            is like no other.
    """

    id: str
    captions: tuple[str, ...] = part(TEXTS, label="caption")
    path: str = part(PATH)
    tags: Mapping[str, str] = part(TAGS)
    numbers: Mapping[str, float] = part(NUMBERS)
    embedding: Embedding | None = None
    data_set: str = part(TEXT, form=2, label="data set", in_hits=False)
    content: str = part(TEXT, form=2, in_hits=False, is_shown=False)
    look: str = part(TEXT, form=3, in_hits=False, is_shown=False)

    @property
    def parts(self) -> dict[str, Any]:
        """The value of each of PARTS."""
        return dict(zip(PARTS, _values_of(self), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return all but the embedding as JSON can hold it; `from_json` gives it back exactly."""
        return {
            "id": self.id,
            **{
                name: to_json(value)
                for (name, to_json), value in zip(_TO_JSON, _values_of(self), strict=True)
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], embedding: Embedding | None = None) -> Self:
        """Read what `to_json` gave, now or in an earlier version, which had fewer fields."""
        given = {
            name: known.kind.from_json(values[name])
            for name, known in PARTS.items()
            if name in values
        }
        return cls(values["id"], embedding=embedding, **given)

    def to_show(self, *, as_hit: bool = False) -> dict[str, Any]:
        """Return what people are shown, as JSON: all of it, or the part that a hit has.

        The embedding, and a field of a later form than the first, are there where the document
        has one.
        """
        shown = {
            name: known.kind.to_show(getattr(self, name))
            for name, known in PARTS.items()
            if known.is_shown
            and (known.in_hits or not as_hit)
            and (known.form == 1 or getattr(self, name))
        }
        for date in self.tags.keys() & self.numbers.keys():
            del shown["numbers"][date]
        if self.embedding is not None and not as_hit:
            shown["embedding"] = self.embedding.tolist()
        return {"id": self.id, **shown}


PARTS: Mapping[str, DocumentField] = MappingProxyType(
    {
        one.name: replace(one.metadata[PART], label=one.metadata[PART].label or one.name)
        for one in fields(Document)
        if PART in one.metadata
    }
)
"""Of a document, by name: all its fields but id and embedding."""
_values_of = attrgetter(*PARTS)
_JOINED = tuple(known.kind.joined for known in PARTS.values())
_TO_JSON = tuple((name, known.kind.to_json) for name, known in PARTS.items())

DOCUMENT_FORM = max(known.form for known in PARTS.values())
"""Of the documents on a Vespa that this version writes: 1 are tags and numbers in maps alone; 2
have the fields beside them that a filter of a search by vector needs
(`clipsearch.engines.vespa.filter_fields`), and say of which data set they are. A later one has
the fields that `Document` declares for it."""


LOOK_FORM = PARTS["look"].form


def look_of(document: Document) -> str:
    """Return what the document shares with its near duplicates; its id where that is not known."""
    return document.look or document.id


def check_document(document: Document, dimension: int) -> None:
    """Raise DocumentError, naming the document and the reason, unless an engine can hold it.

    Its texts are not looked at: `storable` makes them so.
    """
    check_fields(document)
    if document.embedding is None:
        raise DocumentError(f"{document.id}: has no embedding")
    check_embedding(document.embedding, dimension, document.id)


def check_fields(document: Document) -> None:
    """Check what `check_document` does, apart from the embedding."""
    check_id(document.id)
    name = document.id
    if is_one_text(document.captions):
        raise DocumentError(f"{name}: its captions are one text, not several; put it into a tuple")
    for column, value in document.numbers.items():
        if not math.isfinite(value):
            raise DocumentError(f"{name}: {column} is {value}; numbers must be finite")


def check_id(id_: str) -> None:
    """Raise DocumentError, naming the id and the reason, unless a document can have it."""
    reason = why_no_id(id_)
    if reason is not None:
        raise DocumentError(f"the id {shown_id(id_)!r} {reason}")


def storable(document: Document) -> Document:
    """Return the document with blanks for characters that no engine can hold.

    It is the same object where it has none of them.

    Raises DocumentError where the names of two columns become one.
    """
    values = zip(_JOINED, _values_of(document), strict=True)
    if is_plain("".join([joined(value) for joined, value in values])):
        return document
    parts = document.parts
    changed = storable_parts(parts)
    return document if changed == parts else replace(document, **changed)


def storable_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of PARTS, by name, with blanks for characters that no engine can hold."""
    return {name: PARTS[name].kind.storable(value) for name, value in parts.items()}


def check_embedding(embedding: Embedding, dimension: int, name: str) -> None:
    """Raise DocumentError unless `embedding` is a finite unit vector of `dimension` values."""
    if embedding.shape != (dimension,):
        raise DocumentError(
            f"{name}: embedding of shape {embedding.shape}, but the index holds {dimension} values"
        )
    length = math.sqrt(embedding.dot(embedding))
    if abs(length - 1.0) <= UNIT_LENGTH_TOLERANCE:  # and so it is finite
        return
    if not np.isfinite(embedding).all():
        raise DocumentError(f"{name}: embedding has values that are not finite")
    raise DocumentError(f"{name}: embedding of length {length:.4f}, must be 1")


def frame_of_documents(
    columns: Mapping[str, Sequence[object]], documents: Sequence[Document]
) -> "pd.DataFrame":
    """Make a DataFrame, a row a document: `columns`, path, captions (lists), tags and numbers.

    Any other of PARTS that a hit shows follows the captions. A cell is None for a tag that the
    document has not, NaN for a number; one with the name of an earlier column has `metadata_`
    before it. Raises UsageError where pandas is not installed.
    """
    first: dict[str, Sequence[object]] = {
        name: [PARTS[name].kind.to_show(getattr(document, name)) for document in documents]
        for name in dict.fromkeys(("path", "captions", *PARTS))
        if PARTS[name].is_shown and PARTS[name].in_hits and name not in ("tags", "numbers")
    }
    tags = {name for document in documents for name in document.tags}
    numbers = {name for document in documents for name in document.numbers} - tags
    metadata = [{**document.numbers, **document.tags} for document in documents]
    frame: pd.DataFrame = frame_of({**columns, **first}, metadata, numbers)
    return frame
