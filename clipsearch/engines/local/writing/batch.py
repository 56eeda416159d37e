"""A batch as it is written: documents a column a field, with what each replaces."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import UNIT_LENGTH_TOLERANCE, Document, look_of
from clipsearch.engines.local.segments.segment import Rows
from clipsearch.engines.local.store import Stored, text_of, texts_of
from clipsearch.storable import is_storable_json, why_no_id

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Replacing:
    """A document that is to be written, and what it replaces.

    Attributes:
        document: The document.
        before: What is in the index by its id; None where it is new.
        keeps_vector: Whether the vector stays that is there.
    """

    document: Document
    before: Stored | None
    keeps_vector: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents of distinct ids, each to be written.

    Attributes:
        rows: As a segment has them; keys and slots of those that are new are given later.
        texts: Of the documents, as the store has them.
        vectors: float32[m, d], of those whose vector is written.
        is_new: bool[n], of the documents that replace none.
        has_vector: bool[n], of those whose vector is written.
        vector_sums: int64[n], the CRC-32 of the vectors that stay.
    """

    rows: Rows
    texts: Sequence[bytes]
    vectors: Vectors
    is_new: npt.NDArray[np.bool_]
    has_vector: npt.NDArray[np.bool_]
    vector_sums: npt.NDArray[np.int64]

    @classmethod
    def of(cls, written: Sequence[Replacing]) -> Self:
        """Lay out documents that may replace others."""
        documents = [each.document for each in written]
        held = [each.before or Stored(0, 0, 0, "") for each in written]
        rows = Rows(
            [each.id for each in documents],
            [each.captions for each in documents],
            [each.tags for each in documents],
            [each.numbers for each in documents],
            [each.data_set for each in documents],
            list(map(look_of, documents)),
            np.array([each.key for each in held], np.int64),
            np.array([each.slot for each in held], np.int64),
        )
        given = [
            each.document.embedding
            for each in written
            if not each.keeps_vector and each.document.embedding is not None
        ]
        vectors = np.stack(given) if given else np.zeros((0, 0))
        return cls(
            rows,
            list(map(text_of, documents)),
            vectors.astype(np.float32, copy=False),
            np.array([each.before is None for each in written], bool),
            np.array([not each.keeps_vector for each in written], bool),
            np.array([each.vector_sum for each in held], np.int64),
        )

    @classmethod
    def of_new(cls, documents: DocumentColumns, texts: Sequence[bytes]) -> Self:
        """Lay out documents that replace none; `texts` are those of `texts_of`."""
        parts, count = documents.parts, len(documents)
        nothing = np.zeros(count, np.int64)
        rows = Rows(
            documents.ids,
            parts["captions"],
            parts["tags"],
            parts["numbers"],
            parts["data_set"],
            [look or id for look, id in zip(parts["look"], documents.ids, strict=True)],
            nothing,
            nothing,
        )
        every = np.ones(count, bool)
        vectors = np.ascontiguousarray(documents.embeddings, np.float32)
        return cls(rows, texts, vectors, every, every, nothing)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.texts)


def plain_documents(documents: DocumentColumns, dimension: int) -> tuple[Places, list[bytes]]:
    """Return the places of the documents that an index can hold just as they are, and their texts.

    They are surely what `check_document` and `storable` let pass unchanged; the others may be.
    """
    try:
        texts = texts_of(documents)
    except TypeError:  # half a character, or a value of another kind
        return np.zeros(0, np.intp), []
    sound = sound_vectors(documents.embeddings, dimension)
    plain = [
        is_sound
        and is_storable_json(text)
        and why_no_id(id) is None
        and not isinstance(captions, str)
        and all(map(math.isfinite, numbers.values()))
        for is_sound, text, id, captions, numbers in zip(
            sound.tolist(),
            texts,
            documents.ids,
            documents.parts["captions"],
            documents.parts["numbers"],
            strict=True,
        )
    ]
    places = np.flatnonzero(plain)
    return places, texts if len(places) == len(texts) else [texts[at] for at in places.tolist()]


def sound_vectors(vectors: npt.NDArray[np.floating], dimension: int) -> npt.NDArray[np.bool_]:
    """Return which rows of float[n, d] an index of `dimension` values can hold, bool[n]."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        return np.zeros(len(vectors), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        sound: npt.NDArray[np.bool_] = np.abs(lengths - 1.0) <= UNIT_LENGTH_TOLERANCE
        return sound


def sound_embeddings(documents: Iterable[Document], dimension: int) -> set[str]:
    """Return the ids of those whose embedding an index can hold, compared all at once."""
    whole = [
        (each.id, each.embedding)
        for each in documents
        if each.embedding is not None and each.embedding.shape == (dimension,)
    ]
    if not whole:
        return set()
    sound = sound_vectors(np.stack([embedding for _, embedding in whole]), dimension)
    return {name for (name, _), is_sound in zip(whole, sound.tolist(), strict=True) if is_sound}
