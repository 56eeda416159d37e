"""An index copied into another one, of either engine, or into a Parquet file; nothing is encoded.

A copy is read document by document: it costs the size of the index, and a batch in memory.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from clipsearch.documents import Document
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import create_engine, feed_lock, index_exists, is_remote, open_engine
from clipsearch.operations import Outcome, Upsert
from finetune.console import Progress
from finetune.errors import EngineError, UsageError
from finetune.files.atomic import replacing
from finetune.manifest.formats.parquet import OF_AN_INDEX

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
DOCUMENTS_AT_ONCE = 2_000
# Columns of a manifest that are no metadata; a tag or number of such a name is told apart.
_OWN = ("id", "image", "captions", "embedding")


def copy_index(source: str, target: str, stream: TextIO | None = None) -> tuple[int, list[Outcome]]:
    """Copy all documents with their vectors, and what the index knows about itself.

    Args:
        source: An index.
        target: A folder that is no index yet, or the address of a Vespa that was deployed for such
            vectors and is empty.
        stream: Of the progress; standard error where None.

    Returns how many were copied, and the outcomes of those that the target refused. Raises
    EngineError and UsageError.
    """
    with ExitStack() as stack:
        read = open_engine(source)
        stack.callback(read.close)
        stack.enter_context(feed_lock(target, "copy"))
        written = _target(target, read.info)
        stack.callback(written.close)
        copied, refused = 0, []
        with Progress("copy", read.count(), stream=stream) as progress:
            for outcome in written.feed(Upsert(each) for each in read.visit(embeddings=True)):
                progress.advance()
                if outcome.error is None:
                    copied += 1
                else:
                    refused.append(outcome)
        written.finish_feed()
    return copied, refused


def _target(target: str, info: IndexInfo) -> Engine:
    """Return the empty index to write to, which knows what the source knows. Raises EngineError."""
    # What feeds have agreed on with a ledger holds for the source alone.
    fresh = replace(info, index_id=uuid.uuid4().hex, last_feed="", open_feeds=())
    if not is_remote(target):
        if index_exists(target):
            raise EngineError(
                f"{target}: is there already, and a copy goes into a new index; name another folder"
            )
        return create_engine(target, replace(fresh, precision="float"), locked=True)
    engine = open_engine(target)
    try:
        if engine.count():
            raise EngineError(
                f"{target}: holds {engine.count():,} documents, and a copy goes into an empty index"
            )
        known = engine.info
        if (known.dimension, known.language) != (info.dimension, info.language):
            raise EngineError(
                f"{target}: was deployed for {known.dimension} values and {known.language!r}, but"
                f" the index has {info.dimension} and {info.language!r}; deploy it so:"
                f" clipsearch deploy"
            )
        engine.change_info(
            lambda now: replace(
                fresh,
                precision=now.precision,
                column_order=now.column_order,
                document_form=now.document_form,
            )
        )
    except BaseException:
        engine.close()
        raise
    return engine


def write_parquet(source: str, path: Path, stream: TextIO | None = None) -> int:
    """Write all documents as a manifest with vectors, which feeds a new index; returns their count.

    Columns: id, image (the path), captions, embedding, then each tag and date as text, each
    number as a double. One of these names has `metadata_` before it. Raises EngineError,
    UsageError where the file is there already, and OSError.
    """
    import pyarrow.parquet as pq  # heavy, and only this needs it

    if path.exists():
        raise UsageError(f"{path}: is there already; name another file, or remove it")
    engine = open_engine(source)
    try:
        schema = _schema(engine.info)
        count = 0
        documents = engine.visit(embeddings=True)
        with (
            replacing(path) as file,
            pq.ParquetWriter(file, schema) as writer,
            Progress("copy", engine.count(), stream=stream) as progress,
        ):
            for batch in _batches(documents):
                writer.write_batch(_rows(batch, schema, engine.info))
                count += len(batch)
                progress.advance(len(batch))
    finally:
        engine.close()
    return count


def _schema(info: IndexInfo) -> "pa.Schema":
    import pyarrow as pa  # heavy, and only this needs it

    fields = [
        ("id", pa.string()),
        ("image", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("embedding", pa.list_(pa.float32())),
        *((_name(column), pa.string()) for column in info.counted_columns),
        *((_name(column), pa.float64()) for column in info.number_columns),
    ]
    return pa.schema(fields, metadata={OF_AN_INDEX: info.encoder_fingerprint or ""})


def _rows(batch: list[Document], schema: "pa.Schema", info: IndexInfo) -> "pa.RecordBatch":
    import pyarrow as pa  # heavy, and only this needs it

    columns: dict[str, list[Any]] = {
        "id": [each.id for each in batch],
        "image": [each.path for each in batch],
        "captions": [list(each.captions) for each in batch],
        "embedding": [each.embedding for each in batch],
    }
    for column in info.counted_columns:
        columns[_name(column)] = [each.tags.get(column) for each in batch]
    for column in info.number_columns:
        columns[_name(column)] = [each.numbers.get(column) for each in batch]
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _name(column: str) -> str:
    return f"metadata_{column}" if column in _OWN else column


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
        yield batch
