"""Reading an index: its versions, and the documents of rows, all of one moment."""

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.earlier.documents import earlier_documents
from clipsearch.engines.local.store import Store, Stored
from clipsearch.engines.local.vectors.blocks import BLOCK, VectorStore, vectors_path
from clipsearch.engines.local.versions import Versions
from finetune.errors import EngineError

_VISITED_AT_ONCE = 500
_ATTEMPTS = 8


class ChangedError(Exception):
    """A commit came between the ranking and the reading of its documents."""


class Reading(Protocol):
    """An open index. Methods raise EngineError."""

    def collection(self) -> Collection:
        """Return the version of now."""

    def documents(
        self, collection: Collection, rows: Sequence[int], *, embeddings: bool, checked: bool = True
    ) -> list[Document]:
        """Return the documents of rows; with `checked`, compare their vectors with their checksums.

        Raises ChangedError where the index is another version by now.
        """

    def visit(self, *, embeddings: bool) -> Iterator[Document]:
        """Yield every document, each once."""

    def close(self) -> None:
        """Free what is held."""


class StoreReading:
    """Of a store and the files beside it; threads may share it."""

    def __init__(self, folder: Path, info: IndexInfo) -> None:
        self._folder = folder
        self._store = Store(folder)
        self._versions = Versions(folder, self._store, info.dimension, info.language)
        self._lock = threading.Lock()

    def collection(self) -> Collection:
        """See `Reading`."""
        with self._lock:
            return self._versions.current()

    def documents(
        self, collection: Collection, rows: Sequence[int], *, embeddings: bool, checked: bool = True
    ) -> list[Document]:
        """See `Reading`."""
        keys = collection.keys(np.array(rows, np.int64))
        commits, stored = self._store.fetch(keys)
        if commits != collection.version:
            raise ChangedError
        found = [stored[key] for key in keys]
        if not checked and not embeddings:
            return [each.document() for each in found]
        return [self._with_vector(each, collection.vectors, embeddings) for each in found]

    def visit(self, *, embeddings: bool) -> Iterator[Document]:
        """See `Reading`; documents that come or go meanwhile may be there or not."""
        keys = np.sort(self.collection().all_keys())
        for start in range(0, len(keys), _VISITED_AT_ONCE):
            part = keys[start : start + _VISITED_AT_ONCE].tolist()
            yield from self._visited(part, embeddings)

    def close(self) -> None:
        """See `Reading`."""
        self._store.close()

    def _visited(self, keys: Sequence[int], embeddings: bool) -> list[Document]:
        if not embeddings:
            _, stored = self._store.fetch(keys)
            return [stored[key].document() for key in keys if key in stored]
        for _ in range(_ATTEMPTS):
            collection = self.collection()
            commits, stored = self._store.fetch(keys)
            if commits == collection.version:
                break
        held = [stored[key] for key in keys if key in stored]
        return [self._with_vector(each, collection.vectors, True) for each in held]

    def _with_vector(self, stored: Stored, vectors: VectorStore, embeddings: bool) -> Document:
        vector = vectors.at(stored.slot)
        if zlib.crc32(vector.data) != stored.vector_sum:
            blocks = self._store.state().blocks
            number = next(b.number for b in blocks if b.place == stored.slot // BLOCK)
            raise EngineError(
                f"{vectors_path(self._folder, number)}: is not as it was written; feed a new index"
                f" from the manifest, and then remove this one"
            )
        return stored.document(vector.copy() if embeddings else None)


class EarlierReading:
    """Of an index of the format before, all of which is read into memory."""

    def __init__(self, folder: Path, info: IndexInfo) -> None:
        held = sorted(earlier_documents(folder), key=lambda document: document.id)
        self._documents = held
        self._collection = Collection.of(held, info.language, info.dimension)

    def collection(self) -> Collection:
        """See `Reading`."""
        return self._collection

    def documents(
        self, collection: Collection, rows: Sequence[int], *, embeddings: bool, checked: bool = True
    ) -> list[Document]:
        """See `Reading`."""
        found = [self._documents[row] for row in rows]
        return found if embeddings else [replace(each, embedding=None) for each in found]

    def visit(self, *, embeddings: bool) -> Iterator[Document]:
        """See `Reading`."""
        for row in range(len(self._documents)):
            yield from self.documents(self._collection, [row], embeddings=embeddings)

    def close(self) -> None:
        """See `Reading`."""
