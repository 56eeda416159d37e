"""Records as they lie in a manifest's temporary database."""

from typing import NamedTuple

from finetune.manifest.formats.row import MetadataValue

CACHE_KIBIBYTES = 48 * 1024
# Of later versions the bytes depend on which texts are interned; digests are made of these.
MARSHAL_VERSION = 2

SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -{CACHE_KIBIBYTES};
CREATE TABLE row (number INTEGER PRIMARY KEY, key TEXT, packed BLOB);
CREATE TABLE member (first INTEGER, number INTEGER);
CREATE TABLE given_id (id TEXT PRIMARY KEY, image TEXT) WITHOUT ROWID;
CREATE TABLE record (
    number INTEGER PRIMARY KEY, id TEXT, split TEXT, packed BLOB, embedding INTEGER, content BLOB
);
BEGIN;
"""
ADD_RECORD = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)"


class ImagePlace(NamedTuple):
    """Where a record's image lies.

    Attributes:
        folder: Number of the lookup's folder that holds the image, -1 where `path` is absolute
            or there is no image.
        path: The image within that folder.
        exists: Whether the image is there.
        shard, offset, size: As in `Row`.
    """

    folder: int
    path: str
    exists: bool
    shard: str | None = None
    offset: int | None = None
    size: int | None = None


class StoredRecord(NamedTuple):
    """What of a record lies packed in the database, beside its id, split and embedding.

    Attributes:
        place: As a plain tuple.
        captions: In the manifest's order, each once.
        metadata: None for none.
        earlier_id: As in `Record`.
        repeats: As in `Record`; left out where empty, so that most records stay as they were.
    """

    place: tuple[int, str, bool, str | None, int | None, int | None]
    captions: tuple[str, ...]
    metadata: dict[str, MetadataValue] | None
    earlier_id: str | None = None
    repeats: tuple[int, ...] = ()


# Number, id, split, packed, number of the row with the embedding, sha256 of the embedding.
RecordRow = tuple[int, str, str, bytes, int | None, bytes | None]
