"""JSON of other people's making, with limits: 40 KB of brackets would take 4 GB of memory.

A value within a value costs a Python object each, and parsers that name the way to a value
(ijson) hold the whole way for each level. So depth, size and digits are counted before parsing.
"""

import json
import re
from pathlib import Path
from typing import Any

from finetune.files.regular_files import read_regular

MAX_DEPTH = 64
# Of one value: a line of JSON Lines, a file within a tar shard, a file of settings. Empty lists in
# a list, the worst case, take some twenty times as much memory.
MAX_BYTES = 16 << 20
# Of an encoder's or a checkpoint's own files; vocabularies are long, and not deep.
MAX_FILE_BYTES = 64 << 20
# Python refuses integers of more than 4,300 digits, and ijson dies of them.
MAX_DIGITS = 1000

_DIGITS = b"0123456789"
_RUN = re.compile(rb"[0-9]*")
_QUOTE = ord('"')
_NO_MARKS = bytes(set(range(256)) - set(b'"[]{}'))
_OPENING = b"[{"


class JsonLimitError(ValueError):
    """The JSON is above a limit, which the message tells."""


class JsonGuard:
    """Looks through JSON that comes in pieces, before a parser sees it."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._digits = 0
        self._backslash = b""

    def check(self, piece: bytes) -> None:
        """Raise JsonLimitError where the JSON so far is too deep, or a number in it too long."""
        data = self._backslash + piece
        self._backslash = b""
        if b"\\" in data:
            data = data.replace(b"\\\\", b"..").replace(b'\\"', b"..")
            if data.endswith(b"\\"):
                # It belongs to what comes next.
                self._backslash, data = b"\\", data[:-1]
        self._check_digits(data)
        # Two quotation marks that follow each other change nothing for the brackets behind them.
        depth, in_string = self._depth, self._in_string
        for mark in data.translate(None, _NO_MARKS).replace(b'""', b""):
            if mark == _QUOTE:
                in_string = not in_string
            elif not in_string:
                depth += 1 if mark in _OPENING else -1
                if depth > MAX_DEPTH:
                    raise JsonLimitError(f"nested more than {MAX_DEPTH} levels deep")
        self._depth, self._in_string = depth, in_string

    def _check_digits(self, data: bytes) -> None:
        start = len(data) - len(data.lstrip(_DIGITS))
        end = len(data) - len(data.rstrip(_DIGITS))
        longest = self._digits + start
        # A longer run holds a byte whose place is a multiple of its length.
        for place in range(0, len(data), MAX_DIGITS):
            if data[place] in _DIGITS:
                first = len(data[:place].rstrip(_DIGITS))
                run = _RUN.match(data, first)
                if run is not None and not self._is_in_string(data[:first]):
                    longest = max(longest, run.end() - first)
        if longest > MAX_DIGITS:
            raise JsonLimitError(f"a number of more than {MAX_DIGITS:,} digits")
        before = self._digits if end == len(data) else 0
        self._digits = 0 if end and self._is_in_string(data) else before + end

    def _is_in_string(self, data: bytes) -> bool:
        """Return whether what follows these bytes is within a string."""
        return (self._in_string + data.count(b'"')) % 2 == 1


def loads(raw: str | bytes) -> Any:
    """Parse as json.loads does, within the limits on depth, digits and MAX_BYTES.

    Raises ValueError: json.JSONDecodeError, UnicodeDecodeError or JsonLimitError.
    """
    if len(raw) > MAX_BYTES:
        raise JsonLimitError(f"longer than the limit of {MAX_BYTES >> 20} MiB")
    return _loads(raw)


def read(path: Path) -> Any:
    """Return a JSON file of at most MAX_FILE_BYTES, within the same limits.

    Raises OSError (no regular file, too large) and ValueError as `loads` does.
    """
    return _loads(read_regular(path, MAX_FILE_BYTES).decode("utf-8-sig"))


def check_file(path: Path) -> None:
    """Raise OSError or JsonLimitError for a JSON file that `read` would refuse for its limits."""
    JsonGuard().check(read_regular(path, MAX_FILE_BYTES))


def _loads(raw: str | bytes) -> Any:
    if isinstance(raw, str):
        opening = raw.count("[") + raw.count("{")
    else:
        opening = raw.count(b"[") + raw.count(b"{")
    if opening > MAX_DEPTH:
        # What it holds besides brackets, quotes and backslashes is nothing to the guard.
        JsonGuard().check(raw.encode("utf-8", "replace") if isinstance(raw, str) else raw)
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise JsonLimitError("a number of more than 4,300 digits") from None
    except RecursionError:
        raise JsonLimitError(f"nested more than {MAX_DEPTH} levels deep") from None
