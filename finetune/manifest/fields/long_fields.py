"""Fields of CSV files as long as the files themselves may have them."""

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 1 << 24
"""Of a field. It bounds what a quotation mark that is never closed can swallow: above, the row is
read line by line, as every row with broken quoting is."""

_lock = threading.Lock()
_open = 0
_limit_before = 0


@contextmanager
def long_fields() -> Iterator[None]:
    """Let csv read fields of MOST_CHARACTERS; Python's limit, 131,072, is back afterwards.

    The limit is one for the whole process: with several files open it goes back after the last.
    """
    global _open, _limit_before
    with _lock:
        if not _open:
            _limit_before = csv.field_size_limit()
            csv.field_size_limit(max(MOST_CHARACTERS, _limit_before))
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                csv.field_size_limit(_limit_before)
