"""The document: what the feed writes and the engines hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from finetune.errors import ClipsearchError

Embedding = npt.NDArray[np.float32]

UNIT_LENGTH_TOLERANCE = 1e-3


class DocumentError(ClipsearchError):
    """A document that no engine would take."""


@dataclass(frozen=True, slots=True)
class Document:
    """One image with all that is searched, filtered and shown.

    Attributes:
        id: Stable and unique; by default the image's path as the manifest gives it. Not empty,
            no U+0000.
        captions: In the manifest's order; may be empty (the document is then found by vector).
        path: Where the picture lies, as the manifest gave it (relative paths stay relative).
        tags: Column to value, as text; filters match the whole value, whatever its
            case and Unicode form.
        numbers: Column to value; finite.
        embedding: float32[d], unit length to 1e-3, finite. None where the document has none
            (`get` and `visit` may be asked to leave it out).
    """

    id: str
    captions: tuple[str, ...] = ()
    path: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    embedding: Embedding | None = None


def check_document(document: Document, dimension: int) -> None:
    """Raise DocumentError, naming the document and the reason, unless an engine can hold it."""
    name = document.id
    if not name:
        raise DocumentError("a document without an id: give every row an image or an id")
    texts = [name, document.path, *document.captions, *document.tags, *document.tags.values()]
    if any("\0" in text for text in texts):
        raise DocumentError(f"{name!r}: holds the character U+0000; remove it from the manifest")
    for column, value in document.numbers.items():
        if not math.isfinite(value):
            raise DocumentError(f"{name}: {column} is {value}; numbers must be finite")
    if document.embedding is None:
        raise DocumentError(f"{name}: has no embedding")
    check_embedding(document.embedding, dimension, name)


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
