"""The document: what the feed writes and the engines hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.storable import blanked, blanked_path, shown_id, why_no_id
from finetune.errors import ClipsearchError
from finetune.several import is_one_text

Embedding = npt.NDArray[np.float32]

UNIT_LENGTH_TOLERANCE = 1e-3

Value = TypeVar("Value", str, float)


class DocumentError(ClipsearchError):
    """A document that no engine would take."""


@dataclass(frozen=True, slots=True)
class Document:
    """One image with all that is searched, filtered and shown.

    Attributes:
        id: Stable and unique; by default the image's path as the manifest gives it. What it may
            be: `clipsearch.storable.why_no_id`.
        captions: In the manifest's order; may be empty (the document is then found by vector).
        path: Where the picture lies, as the manifest gave it (relative paths stay relative).
        tags: Column to value, as text; filters match the whole value, whatever its
            case and Unicode form.
        numbers: Column to value; finite.
        embedding: float32[d], unit length to 1e-3, finite. None where the document has none
            (`get` and `visit` may be asked to leave it out).
        data_set: Name of the manifest that it comes from (`clipsearch.data_sets`); empty where an
            earlier version wrote it, and in the hits of a search on Vespa.
        content: sha256, in hex, of what the embedding was made from: the picture's bytes, or the
            ready-made vector. Empty in the same cases.
    """

    id: str
    captions: tuple[str, ...] = ()
    path: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    embedding: Embedding | None = None
    data_set: str = ""
    content: str = ""


def check_document(document: Document, dimension: int) -> None:
    """Raise DocumentError, naming the document and the reason, unless an engine can hold it.

    Its texts are not looked at: `storable` makes them so.
    """
    check_id(document.id)
    name = document.id
    if is_one_text(document.captions):
        raise DocumentError(f"{name}: its captions are one text, not several; put it into a tuple")
    for column, value in document.numbers.items():
        if not math.isfinite(value):
            raise DocumentError(f"{name}: {column} is {value}; numbers must be finite")
    if document.embedding is None:
        raise DocumentError(f"{name}: has no embedding")
    check_embedding(document.embedding, dimension, name)


def check_id(id_: str) -> None:
    """Raise DocumentError, naming the id and the reason, unless a document can have it."""
    reason = why_no_id(id_)
    if reason is not None:
        raise DocumentError(f"the id {shown_id(id_)!r} {reason}")


def storable(document: Document) -> Document:
    """The document with blanks for characters that no engine can hold; itself where it has none.

    Raises DocumentError where the names of two columns become one.
    """
    changed = replace(
        document,
        captions=tuple(map(blanked, document.captions)),
        path=blanked_path(document.path),
        tags=storable_tags(document.tags),
        numbers=storable_names(document.numbers),
    )
    texts = ("captions", "path", "tags", "numbers")
    same = all(getattr(changed, name) == getattr(document, name) for name in texts)
    return document if same else changed


def storable_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags with blanks for characters that no engine can hold, in names and values."""
    return {column: blanked(value) for column, value in storable_names(tags).items()}


def storable_names(columns: Mapping[str, Value]) -> dict[str, Value]:
    """Columns with blanks for characters that no engine can hold in their names.

    Raises DocumentError where the names of two become one.
    """
    named = {blanked(column): value for column, value in columns.items()}
    if len(named) < len(columns):
        names = sorted(column for column in columns if blanked(column) != column)
        raise DocumentError(
            f"the column {names[0]!r} has the name of another one once it is written with blanks"
            f" for what no index can hold; rename it"
        )
    return named


def check_embedding(embedding: Embedding, dimension: int, name: str) -> None:
    """Raise DocumentError unless `embedding` is a finite unit vector of `dimension` values."""
    if embedding.shape != (dimension,):
        raise DocumentError(
            f"{name}: embedding of shape {embedding.shape}, but the index holds {dimension} values"
        )
    if not np.isfinite(embedding).all():
        raise DocumentError(f"{name}: embedding has values that are not finite")
    length = float(np.linalg.norm(embedding))
    if abs(length - 1.0) > UNIT_LENGTH_TOLERANCE:
        raise DocumentError(f"{name}: embedding of length {length:.4f}, must be 1")
