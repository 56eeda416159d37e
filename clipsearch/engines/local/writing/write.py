"""Operations gathered into batches, each a commit of the store, with an outcome for each.

A batch writes its vectors and its segment first, and is then one transaction. Killed before that
it leaves files that nothing names, which the end of the next feed removes.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.documents import (
    UNIT_LENGTH_TOLERANCE,
    Document,
    check_document,
    check_fields,
    storable,
)
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.collection import NOBODY, Collection
from clipsearch.engines.local.segments.sections import write_sections
from clipsearch.engines.local.segments.segment import Row, sections_of
from clipsearch.engines.local.store import (
    Store,
    Stored,
    clear_errors,
    put_block,
    put_documents,
    put_facts,
    segment_path,
    text_of,
)
from clipsearch.engines.local.vectors.blocks import write_codes, write_vectors
from clipsearch.engines.local.versions import Versions
from clipsearch.engines.local.writing.placing import Placing
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert
from clipsearch.text import tokens
from finetune.errors import DocumentError

BATCH_OPERATIONS = 4096
# So that a slow stream (images being encoded) has its work acknowledged as it goes.
BATCH_SECONDS = 2.0
# Of fewer vectors the mean tells little of those to come.
LEAST_FOR_CENTRE = 1000


def in_batches(
    operations: Iterable[Operation],
    write: Callable[[dict[str, Operation]], Sequence[Outcome]],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Apply operations by `write`, yielding their outcomes as batches are written.

    An operation on an id that the batch holds already closes the batch, so that operations of
    one id are applied in the order given. An exception of `operations` is raised again after
    what was pulled before it is written.
    """
    stream = iter(operations)
    batch: dict[str, Operation] = {}
    started = clock()
    interruption: BaseException | None = None
    while interruption is None:
        try:
            operation = next(stream)
        except StopIteration:
            break
        except BaseException as error:  # Ctrl-C too: nothing pulled so far may be lost
            interruption = error
            break
        full = len(batch) >= BATCH_OPERATIONS or clock() - started >= BATCH_SECONDS
        if batch and (full or operation.id in batch):
            yield from write(batch)
            batch = {}
        if not batch:
            started = clock()
        batch[operation.id] = operation
    if batch:
        yield from write(batch)
    if interruption is not None:
        raise interruption


@dataclass(frozen=True, slots=True)
class _New:
    """A document that is to be written: its tokens, and what it replaces."""

    document: Document
    tokens: Sequence[str]
    before: Stored | None
    keeps_vector: bool


class Writer:
    """Writes batches, for as long as the lock of the index is held.

    `written` are the slots of vectors that it wrote, and their CRC-32, to be read back.
    """

    def __init__(self, folder: Path, store: Store, versions: Versions, info: IndexInfo) -> None:
        self._folder = folder
        self._store = store
        self._versions = versions
        self._info = info
        self._placing: Placing | None = None
        self.written: dict[int, int] = {}

    def write(self, batch: dict[str, Operation]) -> list[Outcome]:
        """Write a batch of distinct ids; outcomes come when all of it is written."""
        collection = self._versions.current()
        rows = collection.find(list(batch))
        held = np.flatnonzero(rows != NOBODY)
        keys = collection.keys(rows[held])
        _, stored = self._store.fetch(keys)
        names = list(batch)
        before = {names[at]: stored[key] for at, key in zip(held.tolist(), keys, strict=True)}
        refused: dict[str, str] = {}
        documents = self._documents(batch, before, collection, refused)
        replaced = {each.document.id for each in documents}
        gone = [
            (int(row), before[name])
            for name, row in zip(names, rows, strict=True)
            if row != NOBODY and (name in replaced or isinstance(batch[name], Delete))
        ]
        if documents or gone:
            with clear_errors(self._folder):
                self._commit(documents, gone, collection)
        return [Outcome(each, refused.get(each.id)) for each in batch.values()]

    def _documents(
        self,
        batch: dict[str, Operation],
        before: dict[str, Stored],
        collection: Collection,
        refused: dict[str, str],
    ) -> list[_New]:
        """Return the documents to write; add those that cannot be written to `refused`."""
        found = []
        sound = _sound_embeddings(batch.values(), self._info.dimension)
        for operation in batch.values():
            if isinstance(operation, Delete):
                continue
            try:
                held = before.get(operation.id)
                document = storable(_document(operation, held))
                if operation.id in sound or isinstance(operation, Update):
                    check_fields(document)
                else:
                    check_document(document, self._info.dimension)
                found.append(self._new(document, held, collection))
            except DocumentError as error:
                refused[operation.id] = str(error)
        return found

    def _new(self, document: Document, held: Stored | None, collection: Collection) -> _New:
        language = self._info.language
        words = [token for caption in document.captions for token in tokens(caption, language)]
        keeps = document.embedding is None
        if held is not None and document.embedding is not None:
            # The same vector again, as where only the words of a whole document changed.
            known = collection.vectors.at(held.slot)
            keeps = bool(np.array_equal(known, document.embedding))
        return _New(document, words, held, keeps)

    def _commit(
        self,
        documents: list[_New],
        gone: list[tuple[int, Stored]],
        collection: Collection,
    ) -> None:
        state = self._versions.state
        assert state is not None
        vectors = _stacked([each for each in documents if not each.keeps_vector])
        centre = state.centre
        if not state.written and len(vectors) >= LEAST_FOR_CENTRE:
            centre = vectors.mean(axis=0)
        if self._placing is None:
            self._placing = Placing.of(state, collection)
        placing = self._placing
        slots = placing.take(len(vectors))
        for block, at, places in placing.by_block(slots):
            write_vectors(self._folder, block, places, vectors[at])
            write_codes(self._folder, block, places, vectors[at], centre)
        key, fresh = state.next_key, iter(zip(slots.tolist(), vectors, strict=True))
        rows, texts = [], []
        for each in documents:
            if each.keeps_vector and each.before is not None:
                slot, total = each.before.slot, each.before.vector_sum
            else:
                slot, vector = next(fresh)
                total = self.written[slot] = zlib.crc32(vector.data)
            own, key = (key, key + 1) if each.before is None else (each.before.key, key)
            rows.append(Row(each.document, each.tokens, own, slot))
            texts.append((own, slot, total, text_of(each.document)))
        number = max(state.next_number, placing.next_number)
        size = 0
        if rows:
            size = write_sections(segment_path(self._folder, number), sections_of(rows))
        with self._store.writing() as connection:
            put_documents(connection, texts)
            rewritten = {row.key for row in rows}
            removed = [(held.key,) for _, held in gone if held.key not in rewritten]
            connection.executemany("DELETE FROM documents WHERE key = ?", removed)
            if rows:
                connection.execute(
                    "INSERT INTO segments VALUES (?, ?, ?)", (number, size, len(rows))
                )
            deletions = _deletions(collection, gone, self._info.language)
            last = number
            for segment, lost, terms in deletions:
                last += 1
                connection.execute(
                    "INSERT INTO gone VALUES (?, ?, ?, ?)",
                    (last, segment, lost.tobytes(), terms.tobytes()),
                )
            for block in placing.changed():
                put_block(connection, block)
            put_facts(
                connection,
                next_key=key,
                next_number=last + 1,
                written=state.written + len(vectors),
                centre=centre.astype(np.float32).tobytes(),
            )
        placing.next_number = last + 1
        placing.give_back(_freed(gone, documents))


def _freed(gone: list[tuple[int, Stored]], documents: list[_New]) -> npt.NDArray[np.int64]:
    """Return the slots whose documents went, or have another vector now."""
    kept = {each.before.key for each in documents if each.before is not None and each.keeps_vector}
    return np.array([held.slot for _, held in gone if held.key not in kept], np.int64)


def _deletions(
    collection: Collection, gone: list[tuple[int, Stored]], language: str
) -> Iterator[tuple[int, npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
    """Yield (segment, its rows that go, their terms) of each segment that loses any."""
    by_part: dict[int, list[tuple[int, Stored]]] = {}
    bases = np.array(collection.bases)
    for row, stored in gone:
        part = int(np.searchsorted(bases, row, side="right")) - 1
        by_part.setdefault(part, []).append((row - int(bases[part]), stored))
    for part, held in by_part.items():
        segment = collection.parts[part].segment
        rows = np.array([row for row, _ in held], np.int32)
        words = [
            [token for caption in stored.document().captions for token in tokens(caption, language)]
            for _, stored in held
        ]
        terms = segment.postings.terms_of(rows, words).astype(np.int32)
        yield segment.number, rows, terms


def _stacked(documents: Sequence[_New]) -> npt.NDArray[np.float32]:
    found = [each.document.embedding for each in documents if each.document.embedding is not None]
    return np.stack(found).astype(np.float32, copy=False) if found else np.zeros((0, 0), np.float32)


def _sound_embeddings(operations: Iterable[Operation], dimension: int) -> set[str]:
    """Return the ids of those whose embedding an index can hold, compared all at once."""
    whole = [
        (each.id, each.document.embedding)
        for each in operations
        if isinstance(each, Upsert)
        and each.document.embedding is not None
        and each.document.embedding.shape == (dimension,)
    ]
    if not whole:
        return set()
    stacked = np.stack([embedding for _, embedding in whole]).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", stacked, stacked))
        sound = np.abs(lengths - 1.0) <= UNIT_LENGTH_TOLERANCE
    return {name for (name, _), is_sound in zip(whole, sound.tolist(), strict=True) if is_sound}


def _document(operation: Upsert | Update, held: Stored | None) -> Document:
    """Return the whole document to write, without embedding where that stays."""
    if isinstance(operation, Upsert):
        return operation.document
    if held is None:
        raise DocumentError(f"{operation.id}: is not in the index, so it cannot be updated")
    return operation.applied_to(held.document())
