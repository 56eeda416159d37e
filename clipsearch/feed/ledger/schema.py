"""The tables of a ledger, and what earlier versions wrote brought to them."""

import sqlite3
from pathlib import Path

from clipsearch.feed.contents import size_of_stamp
from clipsearch.feed.ledger.compared import COMPARED, TABLE
from clipsearch.feed.ledger.entry import packed
from finetune.errors import EngineError

FORMAT_VERSION = "3"
TABLES = ("facts", "documents", TABLE)
FACTS = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
)
DOCUMENTS = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    stamp TEXT NOT NULL,
    content TEXT NOT NULL,
    encoder TEXT NOT NULL,
    fields TEXT NOT NULL,
    data_set TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
# Ready-made vectors are not looked for by their content.
BY_CONTENT = (
    "CREATE INDEX IF NOT EXISTS by_content ON documents (size, content) WHERE encoder != ''"
)


def make_tables(connection: sqlite3.Connection, path: Path, version: str | None) -> str:
    """Make the tables, or convert those of an earlier version, in the caller's transaction.

    Args:
        connection: To the ledger at `path`, which has its table of facts.
        path: For messages.
        version: Of the tables that are there; None for none.

    Returns that version where it was an earlier one and knew any document; else "". Raises
    EngineError for one that is not known.
    """
    if version == FORMAT_VERSION:
        return ""
    if version is None:
        connection.execute("DROP TABLE IF EXISTS documents")
        connection.execute(DOCUMENTS)
    elif version == "1":
        _add_columns(connection)
    elif version != "2":
        raise EngineError(
            f"{path}: is a ledger of version {version}, but this clipsearch reads"
            f" {FORMAT_VERSION}; delete it to feed everything anew"
        )
    connection.execute("DROP INDEX IF EXISTS by_content")
    connection.create_function("packed", 1, packed, deterministic=True)
    connection.execute(
        "UPDATE documents SET content = packed(content), encoder = packed(encoder),"
        " fields = packed(fields)"
    )
    connection.execute(BY_CONTENT)
    connection.execute(COMPARED)
    knew_any = connection.execute("SELECT 1 FROM documents").fetchone() is not None
    return version if version is not None and knew_any else ""


def _add_columns(connection: sqlite3.Connection) -> None:
    """Add what the first version had not."""
    add = "ALTER TABLE documents ADD COLUMN"
    connection.execute(f"{add} data_set TEXT NOT NULL DEFAULT ''")
    connection.execute(f"{add} size INTEGER NOT NULL DEFAULT 0")
    connection.create_function("size_of_stamp", 1, size_of_stamp)
    connection.execute("UPDATE documents SET size = size_of_stamp(stamp)")
