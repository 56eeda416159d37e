"""Rows of the same image become one record, in bounded memory.

Most manifests have the rows of an image one after the other: their records are written as the rows
are read, with a hash of each key (the default id of the image) and id kept, to find out whether
that was so. Where a key comes again further on, the manifest is read anew, the other way:

1. Every row is written to a temporary SQLite database with its key, the default id of its image.
2. SQLite sorts the keys alone (not the texts) and gives each row the number of the first row of
   its key; sorting spills to disk.
3. The rows are read back by those numbers, so that rows of one image come together and images
   come in the manifest's order, and are written as records.

Rows are packed with `marshal`: the database is this process's own and gone with it.
"""

import marshal
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter

from finetune.images.addresses import is_address
from finetune.manifest.formats.row import (
    ManifestSource,
    Row,
    in_composed_form,
    is_ascii,
    looks_like_list,
    with_whole_characters,
)
from finetune.manifest.image_lookup import ImageLookup, is_absolute, normalise
from finetune.manifest.merging.column_kinds import ColumnKinds
from finetune.manifest.merging.embeddings import Embeddings
from finetune.manifest.merging.once import Once
from finetune.manifest.merging.paired_vectors import PairedVectors
from finetune.manifest.merging.plain_rows import PlainRecords, PlainRows, whole_images
from finetune.manifest.merging.record_digests import RecordDigests
from finetune.manifest.merging.rows_of_image import RowsOfImage
from finetune.manifest.merging.stored_record import (
    ADD_RECORD,
    MARSHAL_VERSION,
    SCHEMA,
    ImagePlace,
    RecordRow,
)
from finetune.manifest.problems import VECTOR_ALONE, Problems
from finetune.manifest.splits import HashedSplit
from finetune.text.composed import composed
from finetune.text.numerals import without_point_zero

# Sorts (key, number) pairs, then (first, number) pairs; rowids of `row` are the numbers.
_GROUP = """
INSERT INTO member
SELECT min(number) OVER (PARTITION BY key) AS first, number FROM row ORDER BY first, number
"""
_READ_GROUPED = """
SELECT first, packed FROM member CROSS JOIN row ON row.number = member.number
ORDER BY member.rowid
"""


class OutOfOrderError(Exception):
    """The rows of an image do not follow each other, or what ids are meant shows at the end."""


def merged(make: Callable[[], "Merger"]) -> "Merger":
    """Return a merger that has read all rows, by the quick way where that gives the same.

    Args:
        make: A new merger, with nothing found yet.

    Raises:
        ManifestError: the source cannot be read.
    """
    for run in (Merger.run_in_order, Merger.run_in_any_order):
        merger = make()
        try:
            run(merger)
        except OutOfOrderError:
            merger.close()
        except BaseException:
            merger.close()
            raise
        else:
            return merger
    raise AssertionError("any order will do")


class Merger:
    """Writes rows into a temporary database and merges them into its table `record`.

    Args:
        source: The manifest.
        lookup: Finds the images.
        hashed_split: For records whose split is not given.
        problems: Takes what is wrong with rows and records.
        vectors: Of the paired .npy file; None without one.
        digests: Whether to make a digest of each record, for `Manifest.digests`.

    Attributes:
        row_count: Data rows read, bad ones not counted.
        columns: What each metadata column holds.
        folder_counts: How many images each folder of the lookup holds.
        digests: Of the records written so far; None where they are not asked for.
        embeddings: By the number of a row.
    """

    def __init__(
        self,
        source: ManifestSource,
        lookup: ImageLookup,
        hashed_split: HashedSplit,
        problems: Problems,
        vectors: PairedVectors | None = None,
        *,
        digests: bool = False,
    ) -> None:
        self.row_count = 0
        self.folder_counts: dict[int, int] = {}
        self.columns = ColumnKinds()
        self._source = source
        self._lookup = lookup
        self._hashed_split = hashed_split
        self._problems = problems
        self.embeddings = Embeddings(vectors)
        self.digests = RecordDigests() if digests else None
        self._last_number = -1
        self._any_id_given = self._any_split_given = False
        # Until one is not: ids, and images named by them, that a data frame wrote as floats.
        self._ids_are_whole_floats = True
        self._names_are_whole_floats = True
        self._together = RowsOfImage(lookup, problems)
        self._plain = PlainRecords(
            lookup,
            hashed_split,
            problems,
            self.embeddings,
            self.digests,
            self.columns,
            self.folder_counts,
        )
        # Where records are written as rows are read; see `merged`.
        self._keys: Once | None = None
        self._ids: Once | None = None
        self._wrote_whole_id = self._wrote_whole_name = False
        self.database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self.database.executescript(SCHEMA)

    def run_in_order(self) -> None:
        """Write the records as the rows are read.

        Raises:
            OutOfOrderError: they would not be the right ones.
            ManifestError: the source cannot be read.
        """
        self._keys, self._ids = Once(), Once()
        self.database.executemany(ADD_RECORD, self._records_in_order())
        self.embeddings.check_count(self._last_number + 1, self._problems)
        if not (self._keys.are_all_different() and self._ids.are_all_different()):
            raise OutOfOrderError
        if (self._wrote_whole_id and self._ids_are_whole_floats) or (
            self._wrote_whole_name and self._names_are_whole_floats
        ):
            raise OutOfOrderError
        self.database.executescript("DROP TABLE member; DROP TABLE row; DROP TABLE given_id")

    def _records_in_order(self) -> Iterator[RecordRow]:
        keys = self._keys
        assert keys is not None
        for rows in whole_images(self._source.rows(self._problems)):
            plain = PlainRows.of(rows, captioned=self._source.captioned)
            if plain is not None and self._takes(plain):
                yield from self._plain_records(plain)
                continue
            for key, same in groupby(self._keyed_rows(rows), key=itemgetter(0)):
                if not keys.add(key):
                    raise OutOfOrderError
                record = self._record([row for _, row in same])
                if record is not None:
                    yield record

    def _takes(self, plain: PlainRows) -> bool:
        """Return whether rows are plain also beside those before."""
        if plain.are_given:
            self._any_id_given = True
            if self._ids_are_whole_floats:
                self._ids_are_whole_floats = _are_whole_floats(plain.ids)
        if self._names_are_whole_floats:
            self._names_are_whole_floats = _are_whole_floats(plain.images)
        if self._ids_are_whole_floats if plain.are_given else self._names_are_whole_floats:
            return False
        embedding = plain.embeddings[0]
        if embedding is None:
            return True
        return self.embeddings.paired is None and not self.embeddings.why_not(embedding)

    def _plain_records(self, plain: PlainRows) -> Iterator[RecordRow]:
        assert self._keys is not None and self._ids is not None
        self._last_number = max(self._last_number, plain.numbers[-1])
        self.row_count += len(plain.ids)
        embeddings = [each for each in plain.embeddings if each is not None]
        if embeddings:
            self.embeddings.keep(plain.numbers, embeddings)
        records = list(self._plain.of(plain))
        are_new = self._ids.add_all([id for _, id, *_ in records])
        if not self._any_split_given and any(plain.splits):
            made = {number for number, *_ in records}
            given = zip(plain.numbers, plain.splits, strict=True)
            self._any_split_given = any(split and number in made for number, split in given)
        if not self._keys.add_all(plain.images) or not are_new:
            raise OutOfOrderError
        return iter(records)

    def run_in_any_order(self) -> None:
        """Read all rows of the source and write its records.

        Raises:
            ManifestError: the source cannot be read.
        """
        rows = self._keyed_rows(self._source.rows(self._problems))
        packed = ((row.number, key, marshal.dumps(tuple(row))) for key, row in rows)
        self.database.executemany("INSERT INTO row VALUES (?, ?, ?)", packed)
        self.embeddings.check_count(self._last_number + 1, self._problems)
        self.database.execute(_GROUP)
        self.database.executemany(ADD_RECORD, self._records())
        self.database.executescript("DROP TABLE member; DROP TABLE row; DROP TABLE given_id")

    def _keyed_rows(self, rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
        """Yield the usable rows, each with the key that all rows of its image have."""
        for row in rows:
            self._last_number = max(self._last_number, row.number)
            if not is_ascii(row):
                whole = with_whole_characters(row, self._problems)
                if whole is None:
                    continue
                row = in_composed_form(whole)
            image = _normalised(row)
            if image:
                key = self._lookup.id_of(image)
            elif row.id is not None:
                # No image's key begins with a slash: default ids are relative.
                key = "/" + composed(row.id)
            else:
                self._problems.add("no image", row.where, "the row names no image")
                continue
            if row.id is not None:
                self._any_id_given = True
            self._watch_names(row.id, image)
            if self._source.captioned and not row.captions:
                self._problems.add("empty caption", row.where, f"{image or row.id}: no caption")
            if any(map(looks_like_list, row.captions)):
                reason = (
                    "its caption looks like a list but cannot be read as one; it stays one caption"
                )
                self._problems.note("unread list", row.where, reason)
            if row.embedding is not None:
                why_not = self.embeddings.why_not(row.embedding)
                if why_not is None:
                    self.embeddings.keep([row.number], [row.embedding])
                else:
                    hides = image if row.id is None else composed(row.id)
                    self._problems.add("bad embedding", row.where, why_not, hides)
                    row = row._replace(embedding=None)
            self.row_count += 1
            if row.embedding is not None or image != row.image:
                row = row._replace(image=image, embedding=b"" if row.embedding else None)
            yield key, row

    def _watch_names(self, id: str | None, image: str) -> None:
        if self._ids_are_whole_floats and id is not None:
            self._ids_are_whole_floats = without_point_zero(id) is not None
        if self._names_are_whole_floats and image:
            self._names_are_whole_floats = without_point_zero(image) is not None

    @property
    def splits_are_given(self) -> bool:
        """Whether any row names a split."""
        return self._any_split_given or self._together.splits_are_given

    def close(self) -> None:
        """Free the temporary disk space."""
        self.database.close()
        self.embeddings.close()

    def _records(self) -> Iterator[RecordRow]:
        unpack = marshal.loads
        with closing(self.database.cursor()) as cursor:
            cursor.execute(_READ_GROUPED)
            for _, packed in groupby(cursor, key=itemgetter(0)):
                record = self._record([Row._make(unpack(each)) for _, each in packed])
                if record is not None:
                    yield record

    def _record(self, rows: list[Row]) -> RecordRow | None:
        number = rows[0].number
        if len(rows) > 1:
            rows = self._together.of_one_image(rows)
        first = rows[0]
        written = next((row.id for row in rows if row.id is not None), None)
        ids = list(dict.fromkeys(composed(row.id) for row in rows if row.id is not None))
        id = self._id(ids[0] if ids else self._lookup.id_of(first.image), given=bool(ids))
        if len(ids) > 1:
            reason = f"its rows have the ids {ids[0]} and {ids[1]}; the first is taken"
            self._problems.note("different values", first.image, reason)
        embedding = self._embedding_row(rows)
        # A disk that is gone changes the default id of an absolute path.
        hides = first.image if not ids and is_absolute(first.image) else id
        found = self._find(first, id, hides, embedding is not None)
        if found is None or not self._is_new_id(id, first):
            return None
        place, status = found
        if place.exists:
            self.folder_counts[place.folder] = self.folder_counts.get(place.folder, 0) + 1
        repeats: tuple[int, ...] = ()
        if len(rows) == 1 and len(first.captions) < 2:
            captions, metadata = first.captions, first.metadata
        else:
            given = Counter(text for row in rows for text in row.captions)
            captions = tuple(given)
            repeats = tuple(given.values()) if given.total() > len(given) else ()
            metadata = self._together.metadata(rows, id)
        if metadata:
            self.columns.watch(metadata)
        in_shard = first.shard is not None
        # An id of a sample's JSON was none before: neither split nor document move.
        split = self._together.split(rows, id) or self._hashed_split(
            self._lookup.id_of(first.image) if in_shard else id
        )
        earlier = written
        if in_shard or written is None:
            earlier = self._lookup.earlier_id_of(first.image)
        earlier_id = None if earlier == id else earlier
        stored = (tuple(place), captions, metadata, earlier_id, *([repeats] if repeats else []))
        packed = marshal.dumps(stored, MARSHAL_VERSION)
        content = None
        if self.digests is not None:
            content = None if embedding is None else self.embeddings.content_of(embedding)
            self.digests.add(number, id, split, packed, content, status)
        return number, id, split, packed, embedding, content

    def _id(self, written: str, *, given: bool) -> str:
        """Return the id that is meant: "101" where all are written like "101.0"."""
        whole_floats = self._ids_are_whole_floats if given else self._names_are_whole_floats
        if whole_floats and self._keys is not None and without_point_zero(written) is not None:
            # Whether all are is known at the end.
            self._wrote_whole_id |= given
            self._wrote_whole_name |= not given
            return written
        return (without_point_zero(written) or written) if whole_floats else written

    def _embedding_row(self, rows: list[Row]) -> int | None:
        if self.embeddings.paired is not None:
            return rows[0].number
        return next((row.number for row in rows if row.embedding is not None), None)

    def _find(
        self, row: Row, id: str, hides: str, has_vector: bool
    ) -> tuple[ImagePlace, os.stat_result | None] | None:
        """Find where the image lies.

        None, and a problem, where it is not found and no vector stands for it.
        """
        if row.shard is not None:
            place = ImagePlace(0, row.image, True, row.shard, row.offset, row.size)
            return place, None if self.digests is None else self._lookup.status_of(row.shard)
        found = None
        # Where vectors are ready, images are seldom there, and never needed.
        if row.image and not (has_vector and self._lookup.has_no_folder_of(row.image)):
            found = self._lookup.find(row.image)
        if found is not None:
            return ImagePlace(found.folder, found.path, True), found.status
        if has_vector:
            # The image is only for showing.
            self._problems.note(VECTOR_ALONE, row.where, f"{id}: has its vector alone")
            return ImagePlace(-1, row.image, False), None
        if not row.image:
            reason = f"{id}: has neither image nor embedding"
            self._problems.add("no image", row.where, reason, hides)
        elif "://" in row.image and not is_address(row.image):
            reason = f"{row.image} is an address of a kind that is not fetched; download the file"
            self._problems.add("missing file", row.where, reason, hides)
        else:
            reason = self._lookup.why_missing(row.image)
            self._problems.add("missing file", row.where, reason, hides)
        return None

    def _is_new_id(self, id: str, row: Row) -> bool:
        if self._ids is not None:
            if not self._ids.add(id):
                raise OutOfOrderError
            return True
        # Default ids are the keys themselves, so only given ones can collide.
        if not self._any_id_given:
            return True
        added = self.database.execute(
            "INSERT OR IGNORE INTO given_id VALUES (?, ?)", (id, row.image)
        ).rowcount
        if added:
            return True
        (image,) = self.database.execute(
            "SELECT image FROM given_id WHERE id = ?", (id,)
        ).fetchone()
        reason = f"the id {id} of {row.image} is already that of {image}; the first one is kept"
        self._problems.add("duplicate id", row.where, reason)
        return False


def _normalised(row: Row) -> str:
    """Return the row's image as records name it; a member of a shard never leaves its shard."""
    if row.shard is not None and ".." in row.image.split("/"):
        return "/".join(part for part in row.image.split("/") if part not in ("", "."))
    return normalise(row.image) if row.image else ""


def _are_whole_floats(texts: Iterable[str]) -> bool:
    return all(without_point_zero(text) is not None for text in texts)
