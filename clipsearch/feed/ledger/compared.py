"""What was compared: digests of the records that each document of a data set agrees with.

A feed that finds a record's digest here need not look at it: the index holds that. The digests lie
in buckets by the hash of the id, each with the ids themselves, so that a change costs the buckets
that it falls into, and all digests are read in one go.

They hold only while the data set has the mark of them (`Ledger.compared`), which a feed takes away
before it writes and gives back when it has ended.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.manifest.merging.record_digests import hash_of_id

TABLE = "compared"
COMPARED = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    data_set TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    digests BLOB NOT NULL,
    ids BLOB NOT NULL,
    PRIMARY KEY (data_set, bucket)
)
"""
BUCKET_BITS = 12
NOT_LOOKED_AT = np.zeros(2, "<u8")
"""In place of a digest: the document is held, and its record is looked at each time."""

_DIGEST = np.dtype([("id", "<u8"), ("row", "<u8", 2)])
_BETWEEN_IDS = b"\0"  # which no id holds

Row = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Compared:
    """Of all documents of a data set, by the hash of the id, ascending.

    Attributes:
        ids: uint64[n], a hash of each document's id.
        rows: uint64[n, 2], of the record that it agrees with; zeros are NOT_LOOKED_AT.
    """

    ids: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint64]

    def differing(
        self, ids: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return which of the records have to be looked at, and which of the documents have none.

        Args:
            ids, rows: Of all records of a manifest.

        Returns places in `ids`, ascending, and places in `self.ids`.
        """
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        if not len(self.ids):
            return np.arange(len(ids)), np.empty(0, np.intp)
        found = np.minimum(np.searchsorted(self.ids, ordered), len(self.ids) - 1)
        is_held = self.ids[found] == ordered
        known, given = self.rows[found], rows[order]
        same = is_held & (known[:, 0] == given[:, 0]) & (known[:, 1] == given[:, 1])
        same &= (known[:, 0] != 0) | (known[:, 1] != 0)
        left = np.ones(len(self.ids), bool)
        left[found[is_held]] = False
        return np.sort(order[~same]), np.flatnonzero(left)


def document_hashes(ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return uint64[n], as `Compared.ids`."""
    return np.frombuffer(b"".join(map(hash_of_id, ids)), "<u8")


def load(connection: sqlite3.Connection, data_set: str) -> Compared:
    """Return all that was written of a data set."""
    query = f"SELECT digests FROM {TABLE} WHERE data_set = ? ORDER BY bucket"
    parts = [digests for (digests,) in connection.execute(query, (data_set,))]
    digests = np.frombuffer(b"".join(parts), _DIGEST)
    return Compared(np.ascontiguousarray(digests["id"]), np.ascontiguousarray(digests["row"]))


def ids_at(
    connection: sqlite3.Connection, data_set: str, hashes: npt.NDArray[np.uint64]
) -> Iterator[str]:
    """Yield the ids of documents by their hashes."""
    for bucket in np.unique(_buckets(hashes)).tolist():
        wanted = set(hashes[_buckets(hashes) == bucket].tolist())
        digests, ids = _bucket(connection, data_set, bucket)
        yield from (id for id, known in zip(ids, digests["id"].tolist(), strict=True)
                    if known in wanted)  # fmt: skip


def write_all(
    connection: sqlite3.Connection, data_set: str, ids: list[str], compared: Compared
) -> None:
    """Write in place of what was written of the data set.

    Args:
        connection: In a transaction.
        data_set: Its name.
        ids: Of its documents.
        compared: Of the same, in the same order.
    """
    connection.execute(f"DELETE FROM {TABLE} WHERE data_set = ?", (data_set,))
    order = np.argsort(compared.ids, kind="stable")
    digests = np.empty(len(order), _DIGEST)
    digests["id"], digests["row"] = compared.ids[order], compared.rows[order]
    ends = np.searchsorted(_buckets(digests["id"]), np.arange(1 << BUCKET_BITS), "right").tolist()

    def buckets() -> Iterator[tuple[str, int, bytes, bytes]]:
        start = 0
        for bucket, end in enumerate(ends):
            if end > start:
                part = [ids[place] for place in order[start:end].tolist()]
                yield data_set, bucket, digests[start:end].tobytes(), _joined(part)
            start = end

    connection.executemany(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?)", buckets())


def change(
    connection: sqlite3.Connection, data_set: str, changes: Mapping[str, Row | None]
) -> None:
    """Write digests of some documents by their ids; None takes a document out.

    `connection` is in a transaction.
    """
    ids = list(changes)
    hashes = document_hashes(ids)
    for bucket in np.unique(_buckets(hashes)).tolist():
        digests, known = _bucket(connection, data_set, bucket)
        rows = dict(zip(known, digests.tolist(), strict=True))
        for place in np.flatnonzero(_buckets(hashes) == bucket).tolist():
            row = changes[ids[place]]
            if row is None:
                rows.pop(ids[place], None)
            else:
                rows[ids[place]] = (int(hashes[place]), row.tolist())
        by_hash = sorted(rows.items(), key=lambda one: one[1][0])
        connection.execute(
            f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?) ON CONFLICT (data_set, bucket)"
            " DO UPDATE SET digests = excluded.digests, ids = excluded.ids",
            (
                data_set,
                bucket,
                np.array([(hash, row) for _, (hash, row) in by_hash], _DIGEST).tobytes(),
                _joined([id for id, _ in by_hash]),
            ),
        )


def _bucket(
    connection: sqlite3.Connection, data_set: str, bucket: int
) -> tuple[npt.NDArray[np.void], list[str]]:
    query = f"SELECT digests, ids FROM {TABLE} WHERE data_set = ? AND bucket = ?"
    found = connection.execute(query, (data_set, bucket)).fetchone()
    digests, ids = found or (b"", b"")
    return np.frombuffer(digests, _DIGEST), ids.decode().split("\0") if ids else []


def _buckets(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return hashes >> np.uint64(64 - BUCKET_BITS)


def _joined(ids: list[str]) -> bytes:
    return _BETWEEN_IDS.join(id.encode() for id in ids)
