"""What an index knows about itself, in one document of a type of its own.

Two writers never overwrite each other: a write says what it takes to stand there, and Vespa refuses
it (412) where something else does. Then it is read and changed again.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from urllib.parse import quote

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa import operations
from clipsearch.engines.vespa.answers import failure_sentence, is_missing
from clipsearch.engines.vespa.filter_fields import places_of
from clipsearch.engines.vespa.http import checked
from clipsearch.engines.vespa.http.connection import Client
from finetune.errors import EngineError, IndexVersionError

# 1 knew nothing of `column_order` and `document_form`, and would write documents without keys.
FORMAT_VERSION = 2
_OLDEST_FORMAT_VERSION = 1

_CONDITION_FAILED = 412
# Writers that come in between are few; many would mean that the condition itself is misread.
_ATTEMPTS = 20
# Vespa's container takes request heads of 64 KB. Only an index of a thousand columns gets there,
# and is written without a condition.
_LONGEST_CONDITION = 40_000


class UnreadableInfoError(EngineError):
    """Not what clipsearch writes; a deployment writes it anew."""


def read_info(client: Client) -> IndexInfo | None:
    """Return what the index at `client` knows about itself; None where none was written.

    Raises EngineError where Vespa is out of reach, refuses, or the info is of another version.
    """
    text = _read(client, client.settings.search_patience)
    return None if text is None else _parse(text, client.target)


def write_info(client: Client, info: IndexInfo) -> None:
    """Replace all that the index at `client` knows about itself. Raises EngineError."""
    change_info(client, lambda _: info)


def change_info(
    client: Client,
    change: Callable[[IndexInfo | None], IndexInfo],
    *,
    patience: float | None = None,
) -> IndexInfo:
    """Write `change` of what the index at `client` knows; None where it knows nothing readable.

    `change` is called again where another writer came in between. What fails is tried again for
    `patience` seconds, those of a search unless given. Raises EngineError.
    """
    if patience is None:
        patience = client.settings.search_patience
    for _ in range(_ATTEMPTS):
        text = _read(client, patience)
        info = change(_parse_or_none(text, client.target))
        new = _text(info)
        if new == text:
            return info
        path = f"{_path()}?create=true{_condition(text)}"
        body = {"fields": {"content": {"assign": new}}}
        status, content = client.call("PUT", path, body, patience=patience, about=_name())
        if status == 200:
            return info
        if status != _CONDITION_FAILED:
            raise EngineError(failure_sentence(status, content, client.target))
    raise EngineError(
        f"{client.target}: other writers changed what the index knows about itself {_ATTEMPTS}"
        f" times in a row; run the same command again"
    )


class ColumnPlaces:
    """Gives number columns their places, once and for ever. Safe between threads."""

    def __init__(
        self,
        info: IndexInfo,
        change: Callable[[Callable[[IndexInfo], IndexInfo]], IndexInfo],
    ) -> None:
        """`change` is `Engine.change_info`; `info` what the index was last known to know."""
        self._info = info
        self._change = change
        self._places = places_of(info.column_order)
        self._lock = threading.Lock()

    def know(self, columns: Iterable[str]) -> bool:
        """Return whether `of` gives the places of these at once."""
        return self._places.keys() >= set(columns)

    def of(self, columns: Iterable[str]) -> Mapping[str, int]:
        """Return the place of each column, these among them.

        New ones are written to the index first.

        Raises EngineError where that cannot be done.
        """
        wanted = set(columns)
        if wanted <= self._places.keys():
            return self._places
        with self._lock:
            if not wanted <= self._places.keys():
                wanted.update(self._info.compared_columns)  # all at once, not one after the other
                self._places = places_of(self._change(lambda now: _with(now, wanted)).column_order)
            return self._places


def _with(info: IndexInfo, columns: set[str]) -> IndexInfo:
    new = sorted(columns.difference(info.column_order))
    return replace(info, column_order=(*info.column_order, *new)) if new else info


def _read(client: Client, patience: float) -> str | None:
    """Return the text of the document, "" where it is without; None where there is no document."""
    status, content = client.call("GET", _path(), patience=patience, about=_name())
    if is_missing(status, content):
        return None
    if status != 200:
        raise EngineError(failure_sentence(status, content, client.target))
    fields = checked.mapping(content.get("fields"), "what the index knows about itself")
    return checked.text(fields.get("content"), "what the index knows about itself")


def _parse(text: str, target: str) -> IndexInfo:
    try:
        values = json.loads(text)
        version = values.pop("format_version")
        if type(version) is not int:
            raise TypeError("a format version is a whole number")
        if version == 1:
            values["document_form"] = 1
        info = IndexInfo.from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _unreadable(target, error) from error
    if version not in range(_OLDEST_FORMAT_VERSION, FORMAT_VERSION + 1):
        raise IndexVersionError(
            f"{target}: the index is of format {version}, but this clipsearch reads"
            f" {FORMAT_VERSION}; install the clipsearch that made it"
        )
    return info


def _parse_or_none(text: str | None, target: str) -> IndexInfo | None:
    try:
        return None if text is None else _parse(text, target)
    except UnreadableInfoError:
        return None


def _text(info: IndexInfo) -> str:
    # In ASCII, so that it can stand in a condition.
    return json.dumps({"format_version": FORMAT_VERSION, **info.to_json()}, allow_nan=False)


def _condition(text: str | None) -> str:
    """Return the parameter that makes a write fail unless `text` stands there, or nothing for None.

    "" where no condition can be sent: an earlier version wrote other characters than ASCII.
    https://docs.vespa.ai/en/reference/document-select-language.html
    """
    if text == "" or not (text or "").isascii():
        return ""
    escaped = (text or "").replace("\\", "\\\\").replace('"', '\\"')
    condition = quote(f'{operations.INFO_TYPE}.content == "{escaped}"', safe="")
    return f"&condition={condition}" if len(condition) <= _LONGEST_CONDITION else ""


def _unreadable(target: str, error: Exception) -> EngineError:
    return UnreadableInfoError(
        f"{target}: what the index knows about itself cannot be read ({error});"
        f" write it anew with: clipsearch deploy"
    )


def _path() -> str:
    return operations.document_path(operations.INFO_ID, operations.INFO_TYPE)


def _name() -> str:
    return operations.document_name(operations.INFO_ID, operations.INFO_TYPE)
