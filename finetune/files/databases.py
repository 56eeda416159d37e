"""SQLite files that we write where the user says: only in place of our own."""

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

_SQLITE = b"SQLite format 3\0"


def foreign_database(path: Path, tables: Collection[str]) -> str | None:
    """Return why a file that is there is no SQLite database of just our tables.

    None where it may be.

    SQLite itself would add our tables to those of anybody. Raises OSError.
    """
    if not path.is_file() or not path.stat().st_size:
        return None
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return "it is no database"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            found = {str(name) for (name,) in rows}
    except sqlite3.Error:  # who opens it to write tells what is wrong
        return None
    others = sorted(name for name in found - set(tables) if not name.startswith("sqlite_"))
    return f"it has the table {others[0]}, which is not ours" if others else None
