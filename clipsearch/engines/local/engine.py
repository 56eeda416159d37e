"""The embedded engine: an index is a folder, written through LanceDB and read from a snapshot.

    <index>/index.json          what the index knows about itself
    <index>/documents.lance/    the documents: every write goes here, a batch is a commit
    <index>/snapshot-*/         the same documents, laid out for searching (snapshot.py)
    <index>/current.json        names the snapshot, for as long as it equals the table
    <index>/write.lock          held by the one process that writes the table
    <index>/feed.lock           held by the one feed or delete, from before it looks (index_lock.py)
    <index>/.clipsearch.json    the mark: an index, made by us, and the table's files (checksums.py)

A writer removes `current.json` before its first commit and writes it again when `finish_feed` has
saved a new snapshot. So a reader that finds it needs not even open the table, and one that does
not, after a killed feed or while one is under way, builds its own from the table's last version.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from clipsearch.documents import Document, Embedding
from clipsearch.engine import EngineQuery, IndexInfo, Operation, Outcome, Page, check_weights
from clipsearch.engines.local import checksums
from clipsearch.engines.local.folder import (
    clear_unfinished,
    current_snapshot,
    forget_snapshot,
    is_unfinished,
    mark_as_made,
    new_snapshot_folder,
    publish_snapshot,
    read_info,
    remove_old_snapshots,
    write_info,
    write_lock,
)
from clipsearch.engines.local.lock import index_lock
from clipsearch.engines.local.search import VectorIndex, search
from clipsearch.engines.local.snapshot import Snapshot
from clipsearch.ranking import RowNumbers
from clipsearch.text import check_language
from finetune.errors import EngineError, UsageError
from finetune.several import check_several

if TYPE_CHECKING:  # light path: LanceDB takes a second to import, and searching goes without
    from clipsearch.engines.local.table import DocumentTable

EXACT_LIMIT = 200_000
"""Up to so many documents every embedding is compared; above, an approximate index answers."""

_ATTEMPTS = 6
_PAUSE_SECONDS = 0.05

T = TypeVar("T")


class LocalEngine:
    """An index in a folder, as `clipsearch.engine.Engine` describes it.

    Safe to search from several threads and processes while one process writes.
    """

    def __init__(self, folder: Path, info: IndexInfo, *, exact_limit: int = EXACT_LIMIT) -> None:
        """Use `open` or `create`."""
        self._folder = folder
        self._info = info
        self._exact_limit = exact_limit
        self._lock = threading.RLock()
        self._reader: DocumentTable | None = None
        self._snapshot: Snapshot | None = None
        self._snapshot_folder: Path | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        info: IndexInfo,
        *,
        exact_limit: int = EXACT_LIMIT,
        locked: bool = False,
    ) -> Self:
        """Make an empty index, in place of one whose making was cut off.

        With `locked` the caller holds `index_lock`. Raises EngineError where the folder holds
        anything else already, or another process makes an index there.
        """
        check_language(info.language)
        if info.dimension < 1:
            raise UsageError(f"an index of {info.dimension} dimensions: there must be at least 1")
        with nullcontext() if locked else index_lock(path, "feed"):
            cls._make(path, info)
        return cls(path, info, exact_limit=exact_limit)

    @staticmethod
    def _make(path: Path, info: IndexInfo) -> None:
        if path.exists() and (not path.is_dir() or not is_unfinished(path)):
            raise EngineError(f"{path}: holds something already; choose a new folder")
        from clipsearch.engines.local.table import DocumentTable

        try:
            clear_unfinished(path)
            # The info comes last: a folder without it is no index, whatever else went wrong.
            DocumentTable.create(path, info.dimension)
            write_info(path, info)
            mark_as_made(path)
        except OSError as error:
            raise EngineError(f"{path}: cannot make an index there: {error.strerror}") from error

    @classmethod
    def open(cls, path: Path, *, exact_limit: int = EXACT_LIMIT) -> Self:
        """Open what `create` made. Raises EngineError where there is no index to read."""
        return cls(path, read_info(path), exact_limit=exact_limit)

    @property
    def target(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself."""
        return self._info

    def change_info(self, change: Callable[[IndexInfo], IndexInfo]) -> IndexInfo:
        """See `Engine.change_info`; the language cannot change either."""
        known = read_info(self._folder)
        info = change(known)
        if (info.dimension, info.language) != (self._info.dimension, self._info.language):
            raise EngineError(
                f"{self.target}: dimension and language of an index cannot change; feed a new one"
            )
        check_weights(info.bm25_weight, info.vector_weight)
        if info != known:
            try:
                write_info(self._folder, info)
            except OSError as error:
                raise EngineError(f"{self.target}: cannot be written: {error.strerror}") from error
        self._info = info
        return info

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        """Apply operations in batches; see `Engine.feed`. One process may write at a time."""
        from clipsearch.engines.local.write import write_in_batches  # brings LanceDB

        with write_lock(self._folder):
            yield from write_in_batches(
                operations, self._table(), self._info, lambda: forget_snapshot(self._folder)
            )

    def upgrade(self, advance: Callable[[], None]) -> int:
        """Nothing to do: filters of this engine look at the tags and numbers themselves."""
        return 0

    def finish_feed(self) -> None:
        """Compact the table, index its vectors where they are many, and save a snapshot."""
        if self._saved_snapshot() is not None and checksums.are_complete(self._folder):
            return
        with write_lock(self._folder):
            table = self._table()
            table.tidy()
            if table.count() > self._exact_limit and not table.has_vector_index():
                table.build_vector_index()
                table.tidy()
            self._save_snapshot(table)

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """The documents of these ids, in their order; None where there is none."""
        check_several(ids, "get")
        snapshot = self._saved_snapshot()
        if snapshot is None:
            found = _again(lambda: self._table().fetch(ids, embeddings=embeddings))
            return [found.get(document_id) for document_id in ids]
        rows = [snapshot.documents.find(document_id) for document_id in ids]
        return [None if row is None else _document(snapshot, row, embeddings) for row in rows]

    def search(self, query: EngineQuery) -> Page:
        """Rank. Raises UsageError for a query that cannot work."""
        start = time.perf_counter()
        query.check(self._info)

        def rank() -> Page:
            snapshot = self._current()
            index = None
            if snapshot.has_vector_index and len(snapshot) > self._exact_limit and not query.exact:
                index = VectorIndex(self._nearest_in(snapshot), self._exact_limit // 10)
            try:
                return search(snapshot, query, self._info, index)
            except (OSError, EngineError):
                self._drop_snapshot(snapshot)
                raise

        return replace(_again(rank), seconds=time.perf_counter() - start)

    def count(self) -> int:
        """Number of documents."""
        snapshot = self._saved_snapshot()
        return _again(lambda: self._table().count()) if snapshot is None else len(snapshot)

    def count_without_embedding(self) -> int:
        """None: a document comes with its embedding, whose dimension never changes."""
        return 0

    def count_by_data_set(self) -> Mapping[str, int]:
        """See `Engine.count_by_data_set`. Reads every row where no snapshot is saved."""
        snapshot = self._saved_snapshot()
        if snapshot is not None:
            return snapshot.data_sets
        return _again(lambda: Counter(each.data_set for each in self.visit()))

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        """Every document, each once."""
        snapshot = self._saved_snapshot()
        if snapshot is None:
            yield from self._table().visit(embeddings=embeddings)
            return
        for row in range(len(snapshot)):
            yield _document(snapshot, row, embeddings)

    def close(self) -> None:
        """Free what is held."""
        with self._lock:
            self._snapshot = self._snapshot_folder = self._reader = None

    def _table(self) -> "DocumentTable":
        """The table at its latest version, apart from the one that a snapshot pins."""
        from clipsearch.engines.local.table import DocumentTable  # light path

        return DocumentTable.open(self._folder, self._info.dimension)

    def _save_snapshot(self, table: "DocumentTable") -> None:
        path: Path | None = None
        try:
            path = new_snapshot_folder(self._folder)
            Snapshot.build(table, self._info.dimension, path)
            checksums.list_table(self._folder)
            publish_snapshot(self._folder, path)
        except OSError as error:
            raise EngineError(
                f"{self.target}: all documents are kept, but no room or permission to lay them"
                f" out for searching ({error.strerror}); mend that and run the same command again"
            ) from error
        finally:
            if path is not None and current_snapshot(self._folder) != path:
                shutil.rmtree(path, ignore_errors=True)
        remove_old_snapshots(self._folder)

    def _saved_snapshot(self) -> Snapshot | None:
        """The snapshot that equals the table, mapped; None while none is saved."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                path = current_snapshot(self._folder)
                if path is None:
                    return None
                if path == self._snapshot_folder:
                    return self._snapshot
                try:
                    snapshot = Snapshot.load(path)
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # replaced between the two reads, or broken: the table still has all
                self._snapshot, self._snapshot_folder, self._reader = snapshot, path, None
                return snapshot
        return None

    def _current(self) -> Snapshot:
        """The snapshot of the latest version, saved or built now."""
        with self._lock:
            saved = self._saved_snapshot()
            if saved is not None:
                return saved
            from clipsearch.engines.local.table import DocumentTable  # light path

            if self._reader is None:
                self._reader = DocumentTable.open(self._folder, self._info.dimension)
            try:
                version = self._reader.checkout()
                held = self._snapshot
                if held and self._snapshot_folder is None and held.version == version:
                    self._reader.checkout(version)
                    return held
                self._snapshot = Snapshot.build(self._reader, self._info.dimension)
                self._snapshot_folder = None
            except EngineError:
                self._reader = None
                raise
            return self._snapshot

    def _drop_snapshot(self, snapshot: Snapshot) -> None:
        with self._lock:
            if self._snapshot is snapshot:
                self._snapshot = self._snapshot_folder = self._reader = None

    def _nearest_in(self, snapshot: Snapshot) -> Callable[[Embedding, int], RowNumbers]:
        with self._lock:
            if self._reader is None:
                from clipsearch.engines.local.table import DocumentTable  # light path

                table = DocumentTable.open(self._folder, self._info.dimension)
                table.checkout(snapshot.version)
                self._reader = table
            reader = self._reader

        def nearest(vector: Embedding, count: int) -> RowNumbers:
            return snapshot.rows_at(reader.nearest(vector, count))

        return nearest


def _document(snapshot: Snapshot, row: int, embeddings: bool) -> Document:
    document = snapshot.documents[row]
    if not embeddings:
        return document
    return replace(document, embedding=snapshot.embeddings[row].copy())


def _again(read: Callable[[], T]) -> T:
    """Read once more where it fails: a writer may just have replaced the files it was reading."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return read()
        except (OSError, EngineError):
            time.sleep(_PAUSE_SECONDS * attempt)
    try:
        return read()
    except OSError as error:
        raise EngineError(f"{error.filename or 'the index'}: cannot be read: {error}") from error
