"""The embedded engine: an index is a folder.

    <index>/index.json          what the index knows about itself
    <index>/documents.sqlite    the documents, and what the index consists of (store.py)
    <index>/segment-*.seg       words, tags and numbers, for searching (segments/)
    <index>/vectors-*.f32       the vectors, each stored once (vectors/blocks.py)
    <index>/codes-*.signs       one bit a dimension of each (vectors/codes.py)
    <index>/write.lock          held by the one process that writes
    <index>/feed.lock           held by the one feed or delete, from before it looks (lock.py)
    <index>/.clipsearch.json    the mark: an index, made by us

A batch of a feed writes its vectors and one segment, flushes them, and is there with one
transaction of the store; the end of the feed merges segments and measures (writing/).
A reader looks before each query whether there was a commit, and loads what it changed
(versions.py). Where one came while it ranked, it ranks again: a page is of one moment.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from clipsearch.documents import DOCUMENT_FORM, Document
from clipsearch.engine import EngineQuery, IndexInfo, Page, check_weights
from clipsearch.engines.local.collection import NOBODY, Collection
from clipsearch.engines.local.earlier.documents import (
    check_earlier,
    earlier_documents,
    remove_earlier,
)
from clipsearch.engines.local.folder import (
    STORE_NAMES,
    clear_unfinished,
    is_earlier,
    is_unfinished,
    mark_as_made,
    read_info,
    write_info,
    write_lock,
)
from clipsearch.engines.local.lock import index_lock
from clipsearch.engines.local.reading import (
    ChangedError,
    EarlierReading,
    Reading,
    StoreReading,
)
from clipsearch.engines.local.search import search
from clipsearch.engines.local.store import Store, clear_errors
from clipsearch.engines.local.vectors import kernels
from clipsearch.engines.local.versions import Versions
from clipsearch.engines.local.words.vocabulary import beginning_with, spelled_like
from clipsearch.engines.local.words.written import Captions
from clipsearch.engines.local.writing.upkeep import MOST_SEGMENTS, Upkeep, stray_files
from clipsearch.engines.local.writing.write import Writer, in_batches
from clipsearch.operations import Operation, Outcome, Upsert, UpsertMany
from clipsearch.terms import DocumentFrequencies
from clipsearch.text import check_language
from clipsearch.vocabulary import WordCount
from finetune.cores import available_cores
from finetune.errors import EngineError, UsageError
from finetune.several import check_several

LEAST_FOR_THREADS = 500_000
"""Below so many documents a query is over before a second thread would have begun."""
_THREADS = 4
_ATTEMPTS = 8

T = TypeVar("T")


class LocalEngine:
    """An index in a folder, as `clipsearch.engine.Engine` describes it.

    Safe to search from several threads and processes while one process writes.
    """

    def __init__(self, folder: Path, info: IndexInfo) -> None:
        """Use `open` or `create`."""
        self._folder = folder
        self._info = info
        self._lock = threading.RLock()
        self._reading: Reading | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._written: dict[int, int] = {}
        self._has_compared = False

    @classmethod
    def create(cls, path: Path, info: IndexInfo, *, locked: bool = False) -> Self:
        """Make an empty index, in place of one whose making was cut off.

        With `locked` the caller holds `index_lock`. Raises EngineError where the folder holds
        anything else already, or another process makes an index there.
        """
        check_language(info.language)
        if info.dimension < 1:
            raise UsageError(f"an index of {info.dimension} dimensions: there must be at least 1")
        with nullcontext() if locked else index_lock(path, "feed"):
            cls._make(path, info)
        return cls(path, info)

    @staticmethod
    def _make(path: Path, info: IndexInfo) -> None:
        if path.exists() and (not path.is_dir() or not is_unfinished(path)):
            raise EngineError(f"{path}: holds something already; choose a new folder")
        with clear_errors(path):
            clear_unfinished(path)
            # The info comes last: a folder without it is no index, whatever else went wrong.
            Store.create(path, info.dimension)
            write_info(path, info)
            mark_as_made(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open what `create` made. Raises EngineError where there is no index to read."""
        return cls(path, read_info(path))

    @property
    def target(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself."""
        return self._info

    @property
    def takes_many(self) -> bool:
        """See `Engine.takes_many`."""
        return True

    def version(self) -> int | None:
        """See `Engine.version`: how many commits there were, by any process."""
        return self._read(lambda _, collection: collection.version)

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
                write_info(self._folder, info, earlier=is_earlier(self._folder))
            except OSError as error:
                raise EngineError(f"{self.target}: cannot be written: {error.strerror}") from error
        self._info = info
        return info

    def refresh_info(self) -> IndexInfo:
        """See `Engine.refresh_info`."""
        self._info = read_info(self._folder)
        return self._info

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        """Apply operations in batches; see `Engine.feed`. One process may write at a time."""
        self.upgrade(lambda: None)
        with write_lock(self._folder), _Session(self._folder, self._info) as session:
            session.upkeep.repair()
            try:
                yield from in_batches(operations, session.write)
            finally:
                self._written |= session.writer.written

    def upgrade(self, advance: Callable[[], None]) -> int:
        """Convert an index of the format before, whose documents lay in a table of LanceDB.

        One of this format needs no more than to say that it is of today's form: a field that came
        later is read as empty.
        """
        if not is_earlier(self._folder):
            if self._info.document_form != DOCUMENT_FORM:
                self.change_info(lambda info: replace(info, document_form=DOCUMENT_FORM))
            return 0
        with write_lock(self._folder), clear_errors(self._folder):
            return self._convert(advance)

    def finish_feed(self) -> None:
        """Merge segments, measure, and read back what was written; nothing where nothing was."""
        if is_earlier(self._folder):
            return
        with _Session(self._folder, self._info) as session:
            if session.is_finished():
                return
            with write_lock(self._folder):
                session.upkeep.repair()
                session.upkeep.finish(self._written)
        self._written = {}

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """Return the documents of these ids, in their order; None where there is none."""
        check_several(ids, "get")

        def found(reading: Reading, collection: Collection) -> list[Document | None]:
            rows = collection.find(ids)
            held = rows[rows != NOBODY].tolist()
            documents = iter(
                reading.documents(collection, held, embeddings=embeddings, checked=False)
            )
            return [None if row == NOBODY else next(documents) for row in rows.tolist()]

        return self._read(found)

    def search(self, query: EngineQuery) -> Page:
        """Rank. Raises UsageError for a query that cannot work."""
        start = time.perf_counter()
        query.check(self._info)
        checked = query.ranking.needs_vector

        def ranked(reading: Reading, collection: Collection) -> Page:
            def documents(rows: Sequence[int]) -> Sequence[Document]:
                return reading.documents(collection, rows, embeddings=False, checked=checked)

            if checked and collection.depths is not None:
                if self._has_compared:
                    kernels.load()
                self._has_compared = True
            captions = captions_of(reading, collection)
            threads = self._pool() if collection.documents >= LEAST_FOR_THREADS else None
            return search(collection, query, self._info, documents, threads, captions)

        return replace(self._read(ranked), seconds=time.perf_counter() - start)

    def count(self) -> int:
        """Return the number of documents."""
        return self._read(lambda _, collection: collection.documents)

    def document_frequencies(self, words: Sequence[str]) -> DocumentFrequencies:
        """See `Engine.document_frequencies`."""

        def counted(_: Reading, collection: Collection) -> DocumentFrequencies:
            holding = {word: collection.holding(word) for word in dict.fromkeys(words)}
            return DocumentFrequencies(collection.documents, holding)

        return self._read(counted)

    def suggest(self, prefix: str, limit: int) -> tuple[WordCount, ...]:
        """See `Engine.suggest`."""
        return self._read(
            lambda reading, collection: beginning_with(
                collection, captions_of(reading, collection), prefix, limit
            )
        )

    def spelled_like(self, word: str, limit: int) -> tuple[WordCount, ...]:
        """See `Engine.spelled_like`. Compares each word of the index."""
        return self._read(
            lambda reading, collection: spelled_like(
                collection, captions_of(reading, collection), word, limit
            )
        )

    def count_without_embedding(self) -> int:
        """Return None: a document comes with its embedding, whose dimension never changes."""
        return 0

    def count_by_data_set(self) -> Mapping[str, int]:
        """See `Engine.count_by_data_set`."""
        return self._read(lambda _, collection: collection.data_sets())

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        """Yield every document, each once."""
        yield from self._opened().visit(embeddings=embeddings)

    def close(self) -> None:
        """Free what is held."""
        with self._lock:
            if self._reading is not None:
                self._reading.close()
            if self._threads is not None:
                self._threads.shutdown(wait=False)
            self._reading = self._threads = None

    def _read(self, read: Callable[[Reading, Collection], T]) -> T:
        """Return `read` of the version of now; read once more where a commit comes between."""
        for _ in range(_ATTEMPTS):
            reading = self._opened()
            try:
                return read(reading, reading.collection())
            except ChangedError:
                continue
        raise EngineError(f"{self.target}: changes faster than it can be read; try again")

    def _opened(self) -> Reading:
        with self._lock:
            if isinstance(self._reading, EarlierReading) and not is_earlier(self._folder):
                self._reading = None  # converted meanwhile
            if self._reading is None:
                kind = EarlierReading if is_earlier(self._folder) else StoreReading
                self._reading = kind(self._folder, self._info)
            return self._reading

    def _pool(self) -> Executor:
        with self._lock:
            if self._threads is None:
                count = min(_THREADS, available_cores())
                self._threads = ThreadPoolExecutor(count, thread_name_prefix="clipsearch-search")
            return self._threads

    def _convert(self, advance: Callable[[], None]) -> int:
        """Convert the earlier files.

        Everything stands beside them before these go: killed, it begins again.
        """
        check_earlier(self._folder)
        for path in (*stray_files(self._folder, None), *map(self._folder.joinpath, STORE_NAMES)):
            path.unlink(missing_ok=True)
        Store.create(self._folder, self._info.dimension)
        count = 0
        with _Session(self._folder, self._info) as session:
            documents = map(Upsert, earlier_documents(self._folder))
            for outcome in in_batches(documents, session.write):
                if outcome.error is not None:
                    raise EngineError(f"{self.target}: cannot be converted: {outcome.error}")
                count += 1
                advance()
            session.upkeep.finish(session.writer.written)
        info = replace(read_info(self._folder), document_form=DOCUMENT_FORM)
        write_info(self._folder, info)
        self._info = info
        mark_as_made(self._folder)
        remove_earlier(self._folder)
        return count


def captions_of(reading: Reading, collection: Collection) -> Captions:
    """Return the captions of rows, whose vectors nobody looks after."""

    def captions(rows: Sequence[int]) -> Sequence[Sequence[str]]:
        found = reading.documents(collection, rows, embeddings=False, checked=False)
        return [each.captions for each in found]

    return captions


class _Session:
    """A store with what writes to it. A context manager."""

    def __init__(self, folder: Path, info: IndexInfo) -> None:
        self._store = Store(folder)
        self._versions = Versions(folder, self._store, info.dimension, info.language)
        self.writer = Writer(folder, self._store, self._versions, info)
        self.upkeep = Upkeep(folder, self._store, self._versions)

    def write(self, batch: dict[str, Operation]) -> list[Outcome]:
        """Write a batch, and merge where a long feed has made many segments."""
        first = next(iter(batch.values()))
        if isinstance(first, UpsertMany):
            outcomes = [self.writer.write_many(first)]
        else:
            outcomes = self.writer.write(batch)
        self.upkeep.merge(MOST_SEGMENTS)
        return outcomes

    def is_finished(self) -> bool:
        """Return whether nothing is left to be done since the last feed that ended."""
        state = self._store.state()
        return state.finished == state.commits and self.upkeep.is_whole(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
