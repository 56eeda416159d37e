"""The LanceDB table: the one place that speaks to LanceDB, and the truth about an index.

Every batch is one commit of the table, so that a process killed at any moment leaves only whole
batches. What readers search is derived from a version of the table (`snapshot.py`).
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# LanceDB prints warnings about its own internals to standard error.
os.environ.setdefault("LANCE_LOG", "error")

import lancedb
from lancedb.index import HnswSq

from clipsearch.documents import Document, Embedding
from clipsearch.engines.local.rows import from_row, to_row
from finetune.errors import EngineError
from finetune.memory import is_too_little

TABLE = "documents"
Addresses = npt.NDArray[np.uint64]

# One graph: at 200,000 documents faster to search than several. With these settings it is built
# five times faster than with LanceDB's own (m 20, ef_construction 300), at the same recall.
HNSW_LINKS = 16
HNSW_EXPLORED_AT_BUILD = 100
SCAN_ROWS = 8192


class DocumentTable:
    """Documents in LanceDB: id, the row's JSON, its tokens and its embedding.

    All methods raise EngineError, in one sentence.
    """

    def __init__(self, folder: Path, table: Any, dimension: int) -> None:
        self._folder = folder
        self._table = table
        self._dimension = dimension

    @classmethod
    def create(cls, folder: Path, dimension: int) -> "DocumentTable":
        """An empty table in `folder`."""
        with _clear_errors(folder):
            table = lancedb.connect(folder).create_table(TABLE, schema=_schema(dimension))
        return cls(folder, table, dimension)

    @classmethod
    def open(cls, folder: Path, dimension: int) -> "DocumentTable":
        """The table that `create` made."""
        with _clear_errors(folder):
            table = lancedb.connect(folder).open_table(TABLE)
        return cls(folder, table, dimension)

    def checkout(self, version: int | None = None) -> int:
        """Look at a version from now on, the latest unless given; returns its number."""
        with _clear_errors(self._folder):
            self._table.checkout_latest()
            if version is not None:
                self._table.checkout(version)
            return int(self._table.version)

    def count(self) -> int:
        """Number of documents in the version looked at."""
        with _clear_errors(self._folder):
            return int(self._table.count_rows())

    def upsert(self, documents: Sequence[tuple[Document, list[str]]]) -> None:
        """Put documents with their tokens, in one commit; ids must be distinct."""
        if not documents:
            return
        embeddings = [document.embedding for document, _ in documents]
        values = np.ascontiguousarray(np.stack(embeddings), np.float32)  # type: ignore[arg-type]
        batch = pa.table(
            [
                pa.array([document.id for document, _ in documents], pa.string()),
                pa.array([to_row(document) for document, _ in documents], pa.string()),
                pa.array([tokens for _, tokens in documents], pa.list_(pa.string())),
                pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), self._dimension),
            ],
            schema=_schema(self._dimension),
        )
        with _clear_errors(self._folder):
            merge = self._table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(batch)

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents, in one commit; those that are not there are no error."""
        names = [name for name in ids if _is_storable(name)]
        if names:
            with _clear_errors(self._folder):
                self._table.delete(_one_of(names))

    def fetch(self, ids: Iterable[str], *, embeddings: bool) -> dict[str, Document]:
        """Those of the documents that exist, by id."""
        names = [name for name in set(ids) if _is_storable(name)]
        if not names:
            return {}
        columns = ["document", "embedding"] if embeddings else ["document"]
        with _clear_errors(self._folder):
            query = self._table.search().where(_one_of(names)).select(columns).limit(len(names))
            found = query.to_arrow()
        return {document.id: document for document in _documents(found)}

    def visit(self, *, embeddings: bool) -> Iterator[Document]:
        """Every document of the version looked at."""
        for batch in self._scan(["document", "embedding"] if embeddings else ["document"]):
            yield from _documents(pa.table(batch))

    def texts(self) -> pa.Table:
        """Columns id, document, tokens and _rowid of all documents."""
        with _clear_errors(self._folder):
            columns = ["id", "document", "tokens"]
            return self._table.search().select(columns).with_row_id(True).to_arrow()

    def embeddings(self) -> Iterator[tuple[Addresses, npt.NDArray[np.float32]]]:
        """All embeddings in parts: (addresses uint64[n], float32[n, d])."""
        for batch in self._scan(["embedding"], addresses=True):
            yield _addresses(batch.column("_rowid")), _matrix(batch.column("embedding"))

    def nearest(self, vector: Embedding, count: int) -> Addresses:
        """Addresses of about the nearest by the vector index, best first."""
        with _clear_errors(self._folder):
            query = self._table.search(vector, vector_column_name="embedding")
            # Only the address: any other column would be read from the table, row by row.
            query = query.distance_type("dot").select(["_distance"]).with_row_id(True)
            return _addresses(query.limit(count).ef(count * 3 // 2).to_arrow()["_rowid"])

    def has_vector_index(self) -> bool:
        """Whether there is an approximate index of the embeddings."""
        with _clear_errors(self._folder):
            return any("embedding" in index.columns for index in self._table.list_indices())

    def build_vector_index(self) -> None:
        """Build the IVF_HNSW_SQ index over all documents."""
        settings = HnswSq(
            distance_type="dot",
            num_partitions=1,
            m=HNSW_LINKS,
            ef_construction=HNSW_EXPLORED_AT_BUILD,
        )
        with _clear_errors(self._folder):
            self._table.create_index("embedding", config=settings)

    def tidy(self) -> None:
        """Compact files, bring indexes up to date and remove old versions.

        Only for the one writer: files that a killed one left behind go as well.
        """
        with _clear_errors(self._folder), warnings.catch_warnings():
            # Readers whose version goes away look again (`local.py`).
            warnings.filterwarnings("ignore", message=r"optimize\(cleanup_older_than=0\)")
            self._table.checkout_latest()
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def _scan(self, columns: list[str], *, addresses: bool = False) -> Iterator[pa.RecordBatch]:
        with _clear_errors(self._folder):
            query = self._table.search().select(columns)
            if addresses:
                query = query.with_row_id(True)
            yield from query.to_batches(batch_size=SCAN_ROWS)


def _schema(dimension: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.string(), nullable=False),
            pa.field("tokens", pa.list_(pa.string()), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )


def _documents(table: pa.Table) -> Iterator[Document]:
    rows = table["document"].to_pylist()
    if "embedding" not in table.column_names:
        return (from_row(row) for row in rows)
    matrix = _matrix(table["embedding"].combine_chunks())
    return (from_row(row, vector) for row, vector in zip(rows, matrix, strict=True))


def _matrix(column: Any) -> npt.NDArray[np.float32]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values: npt.NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size)


def _addresses(column: Any) -> Addresses:
    values: Addresses = np.asarray(column.to_numpy(), np.uint64)
    return values


def _is_storable(name: str) -> bool:
    """Whether a document could have this id; a lone surrogate is no text."""
    return bool(name) and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def _one_of(names: Sequence[str]) -> str:
    """A condition on the id. In SQL a quote is doubled and no other character means anything."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return f"id IN ({quoted})"


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Whatever LanceDB raises, as one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(storage_error(folder, error)) from error


def storage_error(folder: Path, error: Exception) -> str:
    """One sentence for a failure of the disk or of LanceDB."""
    text = str(error)
    if is_too_little(error):
        return f"{folder}: too little memory; close other programs and run the same command again"
    if any(sign in text for sign in ("os error 28", "No space left", "StorageFull")):
        return f"{folder}: the disk is full; free some space and run the same command again"
    if any(sign in text for sign in ("os error 27", "File too large", "os error 122", "Quota")):
        return f"{folder}: the disk quota or file size limit is reached; raise it and run again"
    if any(sign in text for sign in ("os error 13", "Permission denied", "os error 30")):
        return f"{folder}: no permission to write there; check the owner of the folder"
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{folder}: the index cannot be read or written: {first_line[:300]}"
