"""Operations gathered into batches, each a commit of the table, with an outcome for each."""

import time
from collections.abc import Callable, Iterable, Iterator

from clipsearch.documents import Document, check_document, storable
from clipsearch.engine import Delete, IndexInfo, Operation, Outcome, Update, Upsert
from clipsearch.engines.local.table import DocumentTable
from clipsearch.text import tokens
from finetune.errors import DocumentError

BATCH_OPERATIONS = 1000
# So that a slow stream (images being encoded) has its work acknowledged as it goes.
BATCH_SECONDS = 2.0
# A long feed makes many small files; every so many batches they are joined.
BATCHES_BETWEEN_TIDYING = 200


def write_in_batches(
    operations: Iterable[Operation],
    table: DocumentTable,
    info: IndexInfo,
    before_write: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Apply operations, yielding their outcomes as batches are written.

    An operation on an id that the batch holds already closes the batch, so that operations of
    one id are applied in the order given. An exception of `operations` is raised again after
    what was pulled before it is written.
    """
    stream = iter(operations)
    batch: dict[str, Operation] = {}
    started = clock()
    written = 0
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
            before_write()
            yield from _write(batch, table, info)
            batch = {}
            written += 1
            if written % BATCHES_BETWEEN_TIDYING == 0:
                table.tidy()
        if not batch:
            started = clock()
        batch[operation.id] = operation
    if batch:
        before_write()
        yield from _write(batch, table, info)
    if interruption is not None:
        raise interruption


def _write(batch: dict[str, Operation], table: DocumentTable, info: IndexInfo) -> Iterator[Outcome]:
    """Write a batch of distinct ids; outcomes come when all of it is written."""
    refused: dict[str, str] = {}
    wanted = [operation.id for operation in batch.values() if isinstance(operation, Update)]
    existing = table.fetch(wanted, embeddings=True)
    documents: list[tuple[Document, list[str]]] = []
    for operation in batch.values():
        if isinstance(operation, Delete):
            continue
        try:
            document = storable(_document(operation, existing))
            documents.append((document, _checked_tokens(document, info)))
        except DocumentError as error:
            refused[operation.id] = str(error)
    table.upsert(documents)
    table.delete(operation.id for operation in batch.values() if isinstance(operation, Delete))
    for operation in batch.values():
        yield Outcome(operation, refused.get(operation.id))


def _document(operation: Upsert | Update, existing: dict[str, Document]) -> Document:
    """The whole document that is to be written."""
    if isinstance(operation, Upsert):
        return operation.document
    document = existing.get(operation.id)
    if document is None:
        raise DocumentError(f"{operation.id}: is not in the index, so it cannot be updated")
    return operation.applied_to(document)


def _checked_tokens(document: Document, info: IndexInfo) -> list[str]:
    """The tokens of all captions; raises DocumentError for what the table cannot hold."""
    check_document(document, info.dimension)
    return [token for caption in document.captions for token in tokens(caption, info.language)]
