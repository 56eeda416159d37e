"""Documents of an earlier version are given the fields that follow from others.

Those for filters, orders, groups and beginnings of words: an earlier version wrote tags and numbers
into their maps alone, or had no field to sort or to group by. All documents are visited, and where
the fields are not what the others make of them, they are written; embeddings and the graph stay as
they are. A feed that runs at the same time may change a document between its visit
and its write, so the visits go on until one finds nothing to write. Stopped in between, the next
upgrade passes over what is right already.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.answers import (
    failure_sentence,
    is_foreign_package,
    parse_document,
    vespa_message,
)
from clipsearch.engines.vespa.caption_words import WORDS, caption_words
from clipsearch.engines.vespa.feeding import feed
from clipsearch.engines.vespa.filter_fields import NUMBER_KEYS, TAG_VALUES, number_keys, tag_values
from clipsearch.engines.vespa.http import checked
from clipsearch.engines.vespa.http.connection import Client, Json
from clipsearch.engines.vespa.index_info import ColumnPlaces
from clipsearch.engines.vespa.operations import LOOK, DerivedFields
from clipsearch.engines.vespa.queries import LATER_FIELDS, fields_body
from clipsearch.engines.vespa.sortable import SORTABLE, numbers_in, sortable
from clipsearch.engines.vespa.visiting import visit
from finetune.errors import EngineError

_VISITED_FIELDS = (
    "id", "captions", "tags", "numbers", "content", TAG_VALUES, NUMBER_KEYS, SORTABLE, LOOK, WORDS,
)  # fmt: skip


def upgrade(
    client: Client, info: IndexInfo, places: ColumnPlaces, advance: Callable[[], None]
) -> int:
    """Write the fields where they are missing or wrong; the number of documents that were written.

    `advance` is called after each. Raises EngineError where the schema that is deployed has no
    such fields, and where a document is refused.
    """
    check_schema(client)
    # Written first: earlier versions refuse an index with it, and so add no documents without.
    places.of(info.compared_columns)
    written: Counter[str] = Counter()
    found = True
    while found:
        found = False
        with closing(feed(client, _wrong(client, places), info, places)) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    raise EngineError(f"{client.target}: {outcome.error}")
                found = True
                written[outcome.operation.id] += 1
                if written[outcome.operation.id] == 1:
                    advance()
    return len(written)


def check_schema(client: Client) -> None:
    """Raise EngineError unless the schema that is deployed has the fields of today's form."""
    settings = client.settings
    status, content = client.call(
        "POST", "/search/", fields_body(settings.timeout), patience=settings.search_patience
    )
    if status == 200:
        return
    if is_foreign_package(vespa_message(content)):
        raise EngineError(
            f"{client.target}: the schema deployed there is of an earlier version and lacks some of"
            f" the fields {', '.join(LATER_FIELDS)}: run clipsearch deploy again, as the first"
            f" time; adding fields loses nothing and needs no --allow"
        )
    raise EngineError(failure_sentence(status, content, client.target))


def _wrong(client: Client, places: ColumnPlaces) -> Iterator[DerivedFields]:
    """Yield an update for each document whose fields are not what they should be."""
    for entry in visit(client, _VISITED_FIELDS):
        document, held = parse_document(entry), checked.mapping(entry.get("fields"), "fields")
        wanted = {
            TAG_VALUES: tag_values(document.tags),
            NUMBER_KEYS: number_keys(document.numbers, places.of(document.numbers)),
            SORTABLE: sortable(document.numbers),
            WORDS: caption_words(document.captions),
            # What it looked like is not known, but what is equal in all bytes looks alike.
            LOOK: document.look or document.content or document.id,
        }
        if any(not _is_right(name, held.get(name), value) for name, value in wanted.items()):
            yield DerivedFields(document.id, wanted)


def _is_right(name: str, held: Json, wanted: Any) -> bool:
    """Return whether a field holds what is wanted; Vespa leaves out what is empty."""
    if name == LOOK:
        return bool(held)
    if name == SORTABLE:
        # What is not understood is no reason to write it again and again.
        return numbers_in(held) in (None, wanted["cells"])
    read: Callable[[Json, str], Any] = checked.whole if name == NUMBER_KEYS else checked.text
    return sorted(read(one, name) for one in checked.listed(held, name)) == sorted(wanted)
