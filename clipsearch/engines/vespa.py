"""The engine on a Vespa, over plain HTTP; the index is made by `clipsearch deploy`."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import Self

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, Hit, IndexInfo, Operation, Outcome, Page
from clipsearch.storable import why_no_id
from clipsearch.vespa import operations, queries
from clipsearch.vespa.answers import (
    SearchAnswer,
    failure_sentence,
    is_missing,
    parse_document,
    parse_search,
)
from clipsearch.vespa.connection import (
    Client,
    ConnectionSettings,
    Json,
    LeavableTransport,
    connect,
)
from clipsearch.vespa.feeding import feed
from clipsearch.vespa.unembedded import UnembeddedCount, embedded_body
from finetune.errors import EngineError

INFO_FORMAT_VERSION = 1
VISIT_DOCUMENTS = 500
VISIT_DOCUMENTS_WITH_EMBEDDINGS = 100
# Gets at once: enough to hide the way there and back, few enough to leave room for queries.
_GETS_AT_ONCE = 8


class VespaEngine:
    """Implements `clipsearch.engine.Engine`. Safe between threads."""

    def __init__(self, client: Client, info: IndexInfo) -> None:
        """Use `open`."""
        self._client = client
        self._info = info
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
            raise EngineError(
                f"{client.target}: holds no clipsearch index; make one with: clipsearch deploy"
            )
        return cls(client, info)

    @property
    def target(self) -> str:
        """The address that was opened."""
        return self._client.target

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself, as it was when opened or last saved."""
        return self._info

    def save_info(self, info: IndexInfo) -> None:
        """See `Engine.save_info`."""
        if info.dimension != self._info.dimension:
            raise EngineError(
                f"{self.target}: holds embeddings of {self._info.dimension} values, not"
                f" {info.dimension}; another dimension needs a new index"
            )
        write_info(self._client, info)
        self._info = info

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        """See `Engine.feed`."""
        return feed(self._client, operations, self._info)

    def finish_feed(self) -> None:
        """Nothing to do: Vespa indexes as it writes, and frees space by itself."""

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """See `Engine.get`."""
        wanted = f"?fieldSet={operations.field_set(embeddings=embeddings)}"
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
        pool = ThreadPoolExecutor(_GETS_AT_ONCE)
        try:
            return list(pool.map(get_one, ids))
        finally:
            left.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def search(self, query: EngineQuery) -> Page:
        """See `Engine.search`."""
        start = time.monotonic()
        queries.check_query(query, self._info)
        if query.mode == "bm25" and not query.tokens:
            # Vespa answers a search for nothing with an error.
            return Page((), 0, query.offset, dict.fromkeys(query.facets, ()))
        body = queries.search_body(query, self._info, self._client.settings.timeout)
        status, content = self._call("POST", "/search/", body)
        answer = parse_search(status, content, self.target)
        hits, facets, total = answer.hits, answer.facets, answer.total
        if query.mode == "vector":
            candidates = queries.target_hits(query)
            total = min(total, candidates)
            if query.facets:
                facets = {column: _count(column, hits) for column in query.facets}
                hits = hits[query.offset : query.offset + query.k]
        return Page(
            # Vespa orders equal scores as it likes; within the page they are put in order.
            hits=tuple(sorted(hits, key=lambda hit: (-hit.score, hit.document.id))),
            total=total,
            offset=query.offset,
            facets={column: facets.get(column, ()) for column in query.facets},
            seconds=time.monotonic() - start,
            notes=(
                *_notes(query, answer),
                *self._unembedded.note(self._info, query, answer),
            ),
            partial=answer.partial,
        )

    def count(self) -> int:
        """Number of documents. Raises EngineError where not all could be counted."""
        return self._counted(queries.count_body(self._client.settings.timeout))

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

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        """See `Engine.visit`. Holds the ids: Vespa may send one twice while it moves documents."""
        wanted = VISIT_DOCUMENTS_WITH_EMBEDDINGS if embeddings else VISIT_DOCUMENTS
        path = (
            f"{operations.documents_path()}?cluster={operations.CLUSTER}&wantedDocumentCount={wanted}"
            f"&fieldSet={operations.field_set(embeddings=embeddings)}"
        )
        seen: set[str] = set()
        continuation: str | None = ""
        while continuation is not None:
            after = f"&continuation={continuation}" if continuation else ""
            content = self._expect(*self._call("GET", path + after))
            for entry in content.get("documents", []):
                document = parse_document(entry)
                if document.id not in seen:
                    seen.add(document.id)
                    yield document
            continuation = content.get("continuation")

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close()

    def _call(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        return self._client.call(method, path, body, patience=self._client.settings.search_patience)

    def _counted(self, body: Json) -> int:
        answer = parse_search(*self._call("POST", "/search/", body), self.target)
        if answer.partial is not None:
            raise EngineError(f"{self.target}: cannot count the documents: {answer.partial}")
        return answer.total

    def _expect(self, status: int, content: Json) -> Json:
        if status != 200:
            raise EngineError(failure_sentence(status, content, self.target))
        return content


def read_info(client: Client) -> IndexInfo | None:
    """What the index at `client` knows about itself; None where none was written.

    Raises EngineError where Vespa is out of reach, refuses, or the info is of another version.
    """
    path = operations.document_path(operations.INFO_ID, operations.INFO_TYPE)
    name = operations.document_name(operations.INFO_ID, operations.INFO_TYPE)
    patience = client.settings.search_patience
    status, content = client.call("GET", path, patience=patience, about=name)
    if is_missing(status, content):
        return None
    if status != 200:
        raise EngineError(failure_sentence(status, content, client.target))
    try:
        values = json.loads(content["fields"]["content"])
        version = values.pop("format_version")
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{client.target}: what the index knows about itself cannot be read ({error});"
            f" write it anew with: clipsearch deploy"
        ) from error
    if version != INFO_FORMAT_VERSION:
        raise EngineError(
            f"{client.target}: the index is of format {version}, but this clipsearch reads"
            f" {INFO_FORMAT_VERSION}; install the clipsearch that made it"
        )
    known = {field.name for field in fields(IndexInfo)}
    for name in ("number_columns", "tag_columns"):
        values[name] = tuple(values.get(name, ()))
    return IndexInfo(**{key: value for key, value in values.items() if key in known})


def write_info(client: Client, info: IndexInfo) -> None:
    """Replace what the index at `client` knows about itself. Raises EngineError."""
    text = json.dumps({"format_version": INFO_FORMAT_VERSION, **asdict(info)}, ensure_ascii=False)
    path = operations.document_path(operations.INFO_ID, operations.INFO_TYPE)
    name = operations.document_name(operations.INFO_ID, operations.INFO_TYPE)
    patience = client.settings.search_patience
    body = {"fields": {"content": text}}
    status, content = client.call("POST", path, body, patience=patience, about=name)
    if status != 200:
        raise EngineError(failure_sentence(status, content, client.target))


def _count(column: str, hits: Sequence[Hit]) -> tuple[tuple[str, int], ...]:
    """Facet of a tag column over hits, most frequent first, then by value."""
    counts = Counter(hit.document.tags[column] for hit in hits if hit.document.tags.get(column))
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _notes(query: EngineQuery, answer: SearchAnswer) -> tuple[str, ...]:
    notes = [
        f"{column} has more values than the {queries.MOST_FACET_VALUES:,} most frequent shown"
        for column in answer.cut_facets
    ]
    if query.exact and query.mode not in ("bm25", "vector"):
        notes.append(
            "exact: Vespa compares every document and counts some beyond the candidates, so the"
            " total and the counts are upper bounds"
        )
    return tuple(notes)
