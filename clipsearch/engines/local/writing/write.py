"""Operations gathered into batches, each a commit of the store, with an outcome for each.

A batch writes its vectors and its segment first, and is then one transaction. Killed before that
it leaves files that nothing names, which the end of the next feed removes.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, check_document, check_fields, storable
from clipsearch.engine import IndexInfo
from clipsearch.engines.local.collection import NOBODY, Collection
from clipsearch.engines.local.segments.sections import write_sections
from clipsearch.engines.local.store import (
    Store,
    Stored,
    clear_errors,
    put_block,
    put_documents,
    put_facts,
    segment_path,
)
from clipsearch.engines.local.vectors.blocks import Block, write_codes, write_vectors
from clipsearch.engines.local.versions import Versions
from clipsearch.engines.local.writing.batch import (
    Batch,
    Replacing,
    plain_documents,
    sound_embeddings,
)
from clipsearch.engines.local.writing.placing import Placing, Slots
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert, UpsertMany
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
    one id are applied in the order given; an UpsertMany is a batch by itself. An exception of
    `operations` is raised again after what was pulled before it is written.
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
        if isinstance(operation, UpsertMany):
            if batch:
                yield from write(batch)
            batch = {}
            yield from write({operation.id: operation})
            continue
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
                kept = {e.before.key for e in documents if e.before is not None and e.keeps_vector}
                free = [each.slot for _, each in gone if each.key not in kept]
                self._commit(Batch.of(documents), gone, free, collection)
        return [Outcome(each, refused.get(each.id)) for each in batch.values()]

    def write_many(self, operation: UpsertMany) -> Outcome:
        """Write documents of distinct ids, all that are new and plain without an object for each.

        The outcome comes when all of it is written.
        """
        documents, refused = operation.documents, dict[str, str]()
        collection = self._versions.current()
        is_new = collection.find(documents.ids) == NOBODY
        plain, texts = plain_documents(documents, self._info.dimension)
        if len(plain) < len(documents) or not is_new.all():
            one_by_one = ~is_new
            one_by_one[np.setdiff1d(np.arange(len(documents)), plain)] = True
            outcomes = self.write(
                {each.id: Upsert(each) for each in documents.rows(np.flatnonzero(one_by_one))}
            )
            refused = {each.operation.id: each.error for each in outcomes if each.error is not None}
            texts = [
                text for text, at in zip(texts, plain.tolist(), strict=True) if not one_by_one[at]
            ]
            documents = documents.rows(np.flatnonzero(~one_by_one))
        if len(documents):
            with clear_errors(self._folder):
                batch = Batch.of_new(documents, texts)
                self._commit(batch, [], [], self._versions.current())
        return Outcome(operation, refused=refused)

    def _documents(
        self,
        batch: dict[str, Operation],
        before: dict[str, Stored],
        collection: Collection,
        refused: dict[str, str],
    ) -> list[Replacing]:
        """Return the documents to write; add those that cannot be written to `refused`."""
        found = []
        whole = (each.document for each in batch.values() if isinstance(each, Upsert))
        sound = sound_embeddings(whole, self._info.dimension)
        for operation in batch.values():
            if not isinstance(operation, Upsert | Update):
                continue
            try:
                held = before.get(operation.id)
                document = storable(_document(operation, held))
                if operation.id in sound or isinstance(operation, Update):
                    check_fields(document)
                else:
                    check_document(document, self._info.dimension)
                found.append(_replacing(document, held, collection))
            except DocumentError as error:
                refused[operation.id] = str(error)
        return found

    def _commit(
        self,
        batch: Batch,
        gone: list[tuple[int, Stored]],
        free: list[int],
        collection: Collection,
    ) -> None:
        """Write a batch, and take the rows out that are `gone`; `free` are slots left by them."""
        state = self._versions.state
        assert state is not None
        centre = state.centre
        if not state.written and len(batch.vectors) >= LEAST_FOR_CENTRE:
            centre = batch.vectors.mean(axis=0)
        if self._placing is None:
            self._placing = Placing.of(state, collection)
        placing = self._placing
        taken = placing.take(len(batch.vectors))
        # Numbers are large and few: they are written while the words are laid out.
        with ThreadPoolExecutor(1, thread_name_prefix="clipsearch-vectors") as pool:
            vectors = pool.submit(
                _write_vectors, self._folder, list(placing.by_block(taken)), batch.vectors, centre
            )
            count = int(batch.is_new.sum())
            keys, slots = batch.rows.keys.copy(), batch.rows.slots.copy()
            keys[batch.is_new] = state.next_key + np.arange(count)
            slots[batch.has_vector] = taken
            number = max(state.next_number, placing.next_number)
            size = 0
            if len(batch):
                rows = replace(batch.rows, keys=keys, slots=slots)
                sections = rows.sections(self._info.language)
                size = write_sections(segment_path(self._folder, number), sections)
            sums = batch.vector_sums.copy()
            sums[batch.has_vector] = vectors.result()
        self.written.update(zip(taken.tolist(), sums[batch.has_vector].tolist(), strict=True))
        with self._store.writing() as connection:
            listed = keys.tolist()
            put_documents(connection, listed, slots.tolist(), sums.tolist(), batch.texts)
            rewritten = set(listed) if gone else set()
            removed = [(held.key,) for _, held in gone if held.key not in rewritten]
            connection.executemany("DELETE FROM documents WHERE key = ?", removed)
            if len(batch):
                connection.execute(
                    "INSERT INTO segments VALUES (?, ?, ?)", (number, size, len(batch))
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
                next_key=state.next_key + count,
                next_number=last + 1,
                written=state.written + len(taken),
                centre=centre.astype(np.float32).tobytes(),
            )
        placing.next_number = last + 1
        placing.give_back(np.array(free, np.int64))


def _write_vectors(
    folder: Path,
    placed: list[tuple[Block, Slots, Slots]],
    vectors: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32],
) -> npt.NDArray[np.int64]:
    """Write vectors and their codes at (block, rows, places in it); their CRC-32, int64[n]."""
    for block, at, places in placed:
        own = vectors[at]
        write_vectors(folder, block, places, own)
        write_codes(folder, block, places, own, centre)
    return np.array([zlib.crc32(vector.data) for vector in vectors], np.int64)


def _replacing(document: Document, held: Stored | None, collection: Collection) -> Replacing:
    keeps = document.embedding is None
    if held is not None and document.embedding is not None:
        # The same vector again, as where only the words of a whole document changed.
        known = collection.vectors.at(held.slot)
        keeps = bool(np.array_equal(known, document.embedding))
    return Replacing(document, held, keeps)


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


def _document(operation: Upsert | Update, held: Stored | None) -> Document:
    """Return the whole document to write, without embedding where that stays."""
    if isinstance(operation, Upsert):
        return operation.document
    if held is None:
        raise DocumentError(f"{operation.id}: is not in the index, so it cannot be updated")
    return operation.applied_to(held.document())
