"""The files of an index of format 1: a table of LanceDB, and a snapshot laid out for searching."""

import re
from pathlib import Path

from finetune.files import bounded_json

TABLE_FOLDER = "documents.lance"
CURRENT_FILE = "current.json"
SNAPSHOT_NAME = re.compile(r"snapshot-[0-9a-f]{12}")
SNAPSHOT_NAMES = (
    "embeddings.npy", "documents.json", "document_starts.npy", "starts.npy", "rows.npy",
    "impacts.npy", "terms.json", "tag-*.npy", "tag-*.json", "number-*.npy", "columns.json",
    "addresses.npy", "address_order.npy", "snapshot.json",
)  # fmt: skip
EARLIER_NAMES = (
    CURRENT_FILE, f"{CURRENT_FILE}.*.tmp", f"{TABLE_FOLDER}/",
    *(f"snapshot-*/{name}" for name in SNAPSHOT_NAMES),
)  # fmt: skip


def current_snapshot(folder: Path) -> Path | None:
    """Return the saved snapshot that equals the table; None where a feed was stopped."""
    try:
        stored = bounded_json.read(folder / CURRENT_FILE)
        return folder / str(stored["snapshot"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
