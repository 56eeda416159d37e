"""The engine on a Vespa, over plain HTTP; the index is made by `clipsearch deploy`."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Self

from clipsearch.documents import DOCUMENT_FORM, PARTS, Document
from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.engines.vespa import operations, queries
from clipsearch.engines.vespa.answers import (
    SearchAnswer,
    failure_sentence,
    is_missing,
    parse_document,
    parse_search,
)
from clipsearch.engines.vespa.feeding import feed
from clipsearch.engines.vespa.filter_fields import FILTER_FORM
from clipsearch.engines.vespa.http.connection import (
    Client,
    ConnectionSettings,
    Json,
    connect,
)
from clipsearch.engines.vespa.http.leavable import LeavableTransport
from clipsearch.engines.vespa.http.timed import SLICE_SECONDS
from clipsearch.engines.vespa.index_info import ColumnPlaces, change_info, read_info
from clipsearch.engines.vespa.searching import Searcher
from clipsearch.engines.vespa.unembedded import UnembeddedCount, embedded_body
from clipsearch.engines.vespa.upgrade import upgrade
from clipsearch.engines.vespa.visiting import visit
from clipsearch.engines.vespa.vocabulary import beginning_body, check_words, spelled_body
from clipsearch.operations import Operation, Outcome
from clipsearch.storable import why_no_id
from clipsearch.terms import DocumentFrequencies
from clipsearch.vocabulary import WordCount, most_edits, most_frequent, nearest_first
from finetune.errors import EngineError
from finetune.several import check_several

NO_INDEX = "holds no clipsearch index; make one with: clipsearch deploy"
# So long after it was read, an index of an earlier form is looked at again by a query with filters.
UPGRADE_SECONDS = 30.0
# Gets at once: enough to hide the way there and back, few enough to leave room for queries.
_GETS_AT_ONCE = 8


class VespaEngine:
    """Implements `clipsearch.engine.Engine`. Safe between threads."""

    def __init__(self, client: Client, info: IndexInfo) -> None:
        """Use `open`."""
        self._client = client
        self._info = info
        self._info_read = time.monotonic()
        self._unembedded = UnembeddedCount(self.count_without_embedding)

    @classmethod
    def open(cls, target: str, settings: ConnectionSettings | None = None) -> Self:
        """Open the index at `target`, the address of Vespa's container.

        Credentials come from the environment unless `settings` are given. Raises EngineError where
        Vespa is out of reach, or holds no index of ours.
        """
        client = connect(target, settings)
        try:
            info = read_info(client)
        except BaseException:
            client.close()
            raise
        if info is None:
            client.close()
            raise EngineError(f"{client.target}: {NO_INDEX}")
        return cls(client, info)

    @property
    def target(self) -> str:
        """The address that was opened."""
        return self._client.target

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself, as it was when opened or last saved."""
        return self._info

    def change_info(self, change: Callable[[IndexInfo], IndexInfo]) -> IndexInfo:
        """See `Engine.change_info`."""
        return self._change_info(change, self._client.settings.search_patience)

    def _change_info(self, change: Callable[[IndexInfo], IndexInfo], patience: float) -> IndexInfo:
        def checked(known: IndexInfo | None) -> IndexInfo:
            if known is None:
                raise EngineError(f"{self.target}: {NO_INDEX}")
            info = change(known)
            if info.dimension != known.dimension:
                raise EngineError(
                    f"{self.target}: holds embeddings of {known.dimension} values, not"
                    f" {info.dimension}; another dimension needs a new index"
                )
            return info

        self._info = change_info(self._client, checked, patience=patience)
        return self._info

    def refresh_info(self) -> IndexInfo:
        """See `Engine.refresh_info`."""
        self._info = read_info(self._client) or self._info
        self._info_read = time.monotonic()
        return self._info

    @property
    def takes_many(self) -> bool:
        """See `Engine.takes_many`: each document is a request."""
        return False

    def version(self) -> int | None:
        """See `Engine.version`: Vespa counts no changes."""
        return None

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        """See `Engine.feed`."""
        return feed(self._client, operations, self._info, self._places())

    def upgrade(self, advance: Callable[[], None]) -> int:
        """See `Engine.upgrade`.

        Raises EngineError where the schema deployed there is older than this clipsearch.
        """
        if self._info.document_form == DOCUMENT_FORM:
            return 0
        changed = upgrade(self._client, self._info, self._places(), advance)
        self.change_info(lambda info: replace(info, document_form=DOCUMENT_FORM))
        return changed

    def finish_feed(self) -> None:
        """Do nothing: Vespa indexes as it writes, and frees space by itself."""

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """See `Engine.get`."""
        check_several(ids, "get")
        fields = operations.shown_fields(self._info.document_form, embeddings=embeddings)
        wanted = f"?fieldSet={operations.field_set(fields)}"
        left = threading.Event()
        client = self._client.through(lambda transport: LeavableTransport(transport, left))

        def get_one(id_: str) -> Document | None:
            if why_no_id(id_) is not None:
                return None
            status, content = client.call(
                "GET",
                operations.document_path(id_) + wanted,
                patience=client.settings.search_patience,
                stop=left,
                about=operations.document_name(id_),
            )
            if is_missing(status, content):
                return None
            return parse_document(self._expect(status, content))

        if len(ids) <= 1:
            return [get_one(id_) for id_ in ids]
        pool = ThreadPoolExecutor(_GETS_AT_ONCE, thread_name_prefix="vespa-get")
        try:
            found = [pool.submit(get_one, id_) for id_ in ids]
            waiting = set(found)
            while waiting:
                # In slices: a Ctrl-C just before a wait is heard only when that ends.
                done, waiting = wait(waiting, SLICE_SECONDS, FIRST_EXCEPTION)
                for each in done:
                    each.result()
            return [each.result() for each in found]
        finally:
            left.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def search(self, query: EngineQuery) -> Page:
        """See `Engine.search`."""
        if query.filters and self._info.document_form < FILTER_FORM:
            self._look_for_upgrade()
        page = Searcher(self._info, self._client.settings.timeout, self._ask).page(query)
        return replace(page, notes=(*page.notes, *self._unembedded.note(self._info, query, page)))

    def count(self) -> int:
        """Return the number of documents. Raises EngineError where not all could be counted."""
        return self._counted(queries.count_body(self._client.settings.timeout))

    def document_frequencies(self, words: Sequence[str]) -> DocumentFrequencies:
        """See `Engine.document_frequencies`. A small request for each word, all at once.

        Where Vespa searches only a part, as its answer to the query will say, the counts are of it.
        """
        timeout = self._client.settings.timeout
        distinct = list(dict.fromkeys(words))
        bodies = [queries.count_body(timeout)]
        bodies += [queries.holding_body(timeout, word) for word in distinct]
        with ThreadPoolExecutor(min(len(bodies), _GETS_AT_ONCE)) as pool:
            documents, *holding = (answer.total for answer in pool.map(self._ask, bodies))
        counts = (min(each, documents) for each in holding)
        return DocumentFrequencies(documents, dict(zip(distinct, counts, strict=True)))

    def suggest(self, prefix: str, limit: int) -> tuple[WordCount, ...]:
        """See `Engine.suggest`."""
        check_words(self._info, self.target)
        found = self._ask(beginning_body(prefix, self._client.settings.timeout)).words
        words = [WordCount(*each) for each in found.items() if each[0].startswith(prefix)]
        return most_frequent(words, limit)

    def spelled_like(self, word: str, limit: int) -> tuple[WordCount, ...]:
        """See `Engine.spelled_like`."""
        if not most_edits(word):
            return ()
        check_words(self._info, self.target)
        found = self._ask(spelled_body(word, self._client.settings.timeout)).words
        return nearest_first(word, [WordCount(*each) for each in found.items()], limit)

    def count_without_embedding(self) -> int:
        """See `Engine.count_without_embedding`. Takes as long as an exact search.

        Raises EngineError where not all could be counted.
        """
        documents = self.count()
        if not documents:
            return 0
        body = embedded_body(self._info, documents, self._client.settings.timeout)
        # Documents that a feed adds in between are in the second count alone.
        return max(0, documents - self._counted(body))

    def count_by_data_set(self) -> Mapping[str, int]:
        """See `Engine.count_by_data_set`. Raises EngineError where not all could be counted."""
        if self._info.document_form < PARTS["data_set"].form:  # the schema may have no such field
            return {"": self.count()}
        answer = self._ask(queries.data_sets_body(self._client.settings.timeout))
        if answer.partial is not None:
            raise EngineError(f"{self.target}: cannot count the documents: {answer.partial}")
        return answer.data_sets

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        """See `Engine.visit`. Holds the ids: Vespa may send one twice while it moves documents."""
        fields = operations.shown_fields(self._info.document_form, embeddings=embeddings)
        for entry in visit(self._client, fields):
            yield parse_document(entry)

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close()

    def _look_for_upgrade(self) -> None:
        """Look whether a feed has brought the documents to this form since the last look."""
        if time.monotonic() - self._info_read > UPGRADE_SECONDS:
            self.refresh_info()

    def _places(self) -> ColumnPlaces:
        patience = self._client.settings.feed_patience
        return ColumnPlaces(self._info, lambda change: self._change_info(change, patience))

    def _ask(self, body: Json) -> SearchAnswer:
        return parse_search(*self._call("POST", "/search/", body), self.target)

    def _call(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        return self._client.call(method, path, body, patience=self._client.settings.search_patience)

    def _counted(self, body: Json) -> int:
        answer = self._ask(body)
        if answer.partial is not None:
            raise EngineError(f"{self.target}: cannot count the documents: {answer.partial}")
        return answer.total

    def _expect(self, status: int, content: Json) -> Json:
        if status != 200:
            raise EngineError(failure_sentence(status, content, self.target))
        return content
