"""Every document of the index, page by page."""

from collections.abc import Iterator, Mapping, Sequence

from clipsearch.engines.vespa import operations
from clipsearch.engines.vespa.answers import document_id, failure_sentence
from clipsearch.engines.vespa.http import checked
from clipsearch.engines.vespa.http.connection import Client, Json
from finetune.errors import EngineError

DOCUMENTS_AT_ONCE = 500
DOCUMENTS_AT_ONCE_WITH_EMBEDDINGS = 100


def visit(client: Client, fields: Sequence[str]) -> Iterator[Mapping[str, Json]]:
    """Yield the entries of all documents with these fields, each once, in no particular order.

    Holds the ids: Vespa may send one twice while it moves documents. Raises EngineError, also
    where a page is not as Vespa's are: a visit never ends early, nor goes round in circles.
    """
    at_once = DOCUMENTS_AT_ONCE
    if "embedding" in fields:
        at_once = DOCUMENTS_AT_ONCE_WITH_EMBEDDINGS
    path = (
        f"{operations.documents_path()}?cluster={operations.CLUSTER}&wantedDocumentCount={at_once}"
        f"&fieldSet={operations.field_set(fields)}"
    )
    seen: set[str] = set()
    asked: set[str] = set()
    continuation = ""
    while continuation not in asked:
        asked.add(continuation)
        after = f"&continuation={continuation}" if continuation else ""
        status, content = client.call("GET", path + after, patience=client.settings.search_patience)
        if status != 200:
            raise EngineError(failure_sentence(status, content, client.target))
        if "documents" not in content:
            raise EngineError(f"{client.target}: answered a visit without any documents in it")
        for entry in checked.objects(content["documents"], "a page of a visit"):
            id_ = document_id(entry)
            if id_ not in seen:
                seen.add(id_)
                yield entry
        continuation = checked.text(content.get("continuation"), "a visit's continuation")
        if not continuation:
            return
    raise EngineError(f"{client.target}: a visit came to the same place again; try once more")
