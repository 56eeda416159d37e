"""The file of a ledger: where it lies, whose it is, and who holds it."""

import hashlib
from pathlib import Path
from typing import IO

from clipsearch.engines import is_remote
from clipsearch.engines.vespa.http.address import without_credentials
from clipsearch.feed.ledger.schema import TABLES
from clipsearch.feed.ledger.tables import explained
from finetune.errors import EngineError
from finetune.files.databases import foreign_database
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.user_folders import user_state

LEDGER_NAME = "ledger.sqlite"


def ledger_path(target: str) -> Path:
    """Return where the ledger of an index lies unless named.

    Inside the folder of an embedded index, so that it goes where the index goes; for a Vespa in
    the user's folder for state, by a hash of the address.
    """
    if not is_remote(target):
        return Path(target) / LEDGER_NAME
    # A user name and password in the address are no part of what the index is.
    address = without_credentials(target).rstrip("/")
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    return user_state() / f"{name}.sqlite"


def check_ledger(path: Path) -> None:
    """Raise EngineError where a file at `path` is none that a ledger wrote."""
    with explained(path):
        reason = foreign_database(path, TABLES)
    if reason is not None:
        raise EngineError(
            f"{path}: is no readable ledger ({reason}); name another file with --ledger, or move"
            f" this one away to feed everything anew"
        )


def locked_for(path: Path, work: str) -> IO[bytes]:
    """Hold the ledger at `path` for a work ("feed"); EngineError where another holds it."""
    # A file of its own: closing any handle of the database itself would drop SQLite's own locks.
    try:
        return hold(path.with_name(path.name + ".lock"), work)
    except HeldElsewhereError as error:
        raise EngineError(
            f"{path}: another {error.holder or 'feed'} works on this index; wait until it is"
            f" done, then run the same command again"
        ) from error
