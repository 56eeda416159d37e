"""The manifest: which images there are, and what is written about them.

Every format of `finetune.manifest.formats` is recognised by its content and read row by row. Rows
of the
same image become one record with several captions.

- **Ids.** A given `id` stands. Without one the id is the image's path as the manifest gives it,
  with `/` (backslashes become `/`) and never absolute: an absolute path is made relative to the
  manifest's folder, or to the folder given as `images`; one that lies elsewhere becomes its file
  name with a short hash of the whole path, "dog-59fc7da9.jpg". An image in a shard is
  `shard.tar/member.jpg`.
- **Files.** A relative path is looked for beside the manifest, then in `images/` beside it, then
  in the folder given as `images`: one stat for each, no listing in memory.
- **Unicode forms** (composed, as in "é", or decomposed, as in e and an accent) of ids, captions,
  metadata and column names are one: composed. A file is found by either form of its name, and the
  record's path is spelled as the file is. Of two files whose names differ in nothing else the
  first is kept; that is a problem.
- **Captions** keep their order; identical ones of one image are kept once. An image without any
  stays, with no captions.
- **Metadata** that differs between rows of one image: the first value stays, a note says so.
- **Whole numbers** that a data frame wrote as floats, since one was missing, are whole again: ids,
  names of images and texts of a column in which all are like "101.0" are "101".
- **Splits** are as given, else a seeded hash of the id, so that adding images moves none. An
  image in two splits stays in the first; that is a problem.
- **Vectors** may come ready-made, in a column `embedding` or in a `.npy` file of the manifest's
  name, float[n, d], one row for each of the manifest's. They are kept as given, not normalised.
  Such an image need not exist.
- **Problems.** Rows and images that cannot be used are left out, counted and reported.

Memory is bounded whatever the number of rows: merging, sorting and the list of problems spill to
SQLite's temporary files (in $SQLITE_TMPDIR or $TMPDIR). 1,000,000 rows stay below 250 MB of
resident memory for the whole process, in every text format; benchmarks/manifest.py measures it.
"""

import marshal
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from finetune.errors import ManifestError
from finetune.frames import DataFrame, FrameManifest, as_manifest, frame_of
from finetune.images.address_cache import cached_file
from finetune.images.addresses import AddressBook, FetchLimits, is_address
from finetune.images.source import ImageSource
from finetune.manifest.added_columns import NO_COLUMNS, AddedColumns
from finetune.manifest.addresses_ahead import with_addresses_ahead
from finetune.manifest.exclusion import Exclusion
from finetune.manifest.formats import recognise
from finetune.manifest.formats.columns import ColumnNames
from finetune.manifest.formats.data_frame import DATA_FRAME
from finetune.manifest.formats.row import ManifestSource, MetadataValue
from finetune.manifest.formats.webdataset import WEBDATASET
from finetune.manifest.image_lookup import ImageLookup
from finetune.manifest.merging.merge import Merger, merged
from finetune.manifest.merging.paired_vectors import PairedVectors
from finetune.manifest.merging.record_block import RecordBlock, StoredRow
from finetune.manifest.merging.record_digests import Digests
from finetune.manifest.merging.spilled_vectors import SpillError
from finetune.manifest.merging.stored_record import StoredRecord
from finetune.manifest.problems import LEFT_OUT, Problems
from finetune.manifest.splits import SPLITS, HashedSplit, hold_out
from finetune.split_shares import DEFAULT_SHARES
from finetune.text.numerals import without_point_zero

if TYPE_CHECKING:
    import pandas as pd

_RECORD_COLUMNS = "id, split, packed, embedding, content"


@dataclass(frozen=True, slots=True)
class Record:
    """One image with all that the manifest says about it.

    Attributes:
        id: Stable and unique; never an absolute path.
        path: The image as the manifest gives it, with `/`. Where it was found in another folder
            than `Manifest.root`, relative to that where it lies below it, else absolute: so
            `root / path` is always the file.
        image: Where its bytes lie; None where the manifest has only its vector.
        captions: In the manifest's order, each once; may be empty.
        split: "train", "val" or "test".
        metadata: Every other column that is not empty, without `split`.
        embedding: float32[d], ready-made and as given, read only; None where there is none.
        embedding_sha256: Of its bytes, in hex; None where digests were not asked for.
        earlier_id: The id that an earlier clipsearch gave the image, where it was another
            ("101.0", or one in the decomposed Unicode form); an index that holds the document by
            that id keeps it.
        repeats: How often the manifest gives each of the captions; empty where it gives each once.
    """

    id: str
    path: str
    image: ImageSource | None
    captions: tuple[str, ...]
    split: str
    metadata: Mapping[str, MetadataValue]
    embedding: npt.NDArray[np.float32] | None = None
    earlier_id: str | None = None
    embedding_sha256: str | None = None
    repeats: tuple[int, ...] = ()


def _file_of(path: str) -> Path:
    """Return the file of an absolute path, or of an address."""
    return cached_file(path) if is_address(path) else Path(path)


class Manifest:
    """A manifest that has been read; made by `Manifest.open`, a context manager.

    Attributes:
        path: As it was named; of a DataFrame, its name (`finetune.frames.FrameManifest`).
        format: One of the names in `finetune.manifest.formats.known.FORMATS`, such as "csv".
        root: The folder from which the records' relative paths are meant: that which holds most
            of the images.
        row_count: Rows read, bad ones not counted.
        problems: What is wrong with rows and images.
        splits_are_given: Whether any row names its split.
        searched: The folders in which images were looked for, with a `/`, up to the last one that
            any was found in; empty where that is the first. None where names were tried with
            several endings.
    """

    def __init__(
        self,
        path: Path,
        source: ManifestSource,
        merger: Merger,
        lookup: ImageLookup,
        problems: Problems,
    ) -> None:
        self.path = path
        self.format = source.format
        self.row_count = merger.row_count
        self.problems = problems
        self.splits_are_given = merger.splits_are_given
        self._columns = merger.columns.kinds
        self._whole_floats = merger.columns.whole_floats
        self._database = merger.database
        self._folders = lookup.folders
        self._merger = merger
        self._embeddings = merger.embeddings
        self._digests = None if merger.digests is None else merger.digests.finished()
        counts = {number: count for number, count in merger.folder_counts.items() if number >= 0}
        # Most images; on equal counts the first folder, as the lookup has it.
        main = min(counts, key=lambda number: (-counts[number], number), default=0)
        self._main_folder = main
        last = max(counts, default=0)
        folders = [f"{folder.as_posix().rstrip('/')}/" for folder in lookup.folders]
        is_plain = tuple(source.suffixes) == ("",)
        self.searched: list[str] | None = (
            (folders[: last + 1] if last else []) if is_plain else None
        )
        self.root: Path | None = lookup.folders[main] if lookup.folders else None
        ((count,),) = self._database.execute("SELECT count(*) FROM record")
        self._count = int(count)

    @classmethod
    def open(
        cls,
        path: str | Path | DataFrame | FrameManifest,
        *,
        images: Path | None = None,
        strict: bool = False,
        seed: int = 0,
        split: tuple[float, float, float] = DEFAULT_SHARES,
        digests: bool = False,
        columns: ColumnNames | None = None,
        added: AddedColumns = NO_COLUMNS,
        addresses: FetchLimits | None = None,
        exclude: Sequence[str] = (),
    ) -> "Manifest":
        """Recognise a manifest by its content and read it.

        Args:
            path: A file, a folder, a pattern of tar shards ("shards/{000..012}.tar"), or a pandas
                DataFrame with the columns of a table; named levels of its index are columns too.
                Relative image paths of a DataFrame are meant from the current folder.
            images: Where else relative image paths are looked for.
            strict: Whether any problem is an error.
            seed: Of the hash that assigns splits where none are given.
            split: Shares of train, val and test for that hash.
            columns: Which of a table's columns hold images, captions and ids, where their names do
                not say it.
            added: Columns that the images bring themselves.
            addresses: How images that are named by address are fetched.
            exclude: Patterns of images that are left out, see `finetune.manifest.exclusion`.
            digests: Whether `digests` will be asked for, and the hashes of embeddings.

        Raises:
            ManifestError: it is missing, of no known format, damaged, or has no usable record;
                with `strict`, if it has any problem.
            UsageError: the shares are no shares, or a pattern is none.
        """
        hashed_split = HashedSplit(seed, split)
        exclusion = Exclusion.of(exclude)
        if images is not None and not images.is_dir():
            raise ManifestError(f"{images}: the folder of images is missing")
        given = as_manifest(path)
        path = Path(given)
        vectors = None if isinstance(given, FrameManifest) else PairedVectors.beside(path)
        source = recognise(given, vectors is not None, columns)
        source = source if exclusion is None else exclusion.to(source)
        lookup = ImageLookup(source.root, images, source.suffixes, AddressBook(addresses))
        source = added.to(source, lookup)
        if vectors is None:
            source = with_addresses_ahead(source, lookup.addresses)
        found: list[Problems] = []

        def merger() -> Merger:
            found.append(Problems())
            return Merger(source, lookup, hashed_split, found[-1], vectors, digests=digests)

        try:
            merged_rows = merged(merger)
            manifest = cls(path, source, merged_rows, lookup, found[-1])
        except (sqlite3.OperationalError, SpillError) as error:
            raise ManifestError(
                f"{path}: the temporary folder cannot hold the manifest's rows ({error}); "
                "point SQLITE_TMPDIR at a folder with more room"
            ) from error
        try:
            manifest._check(strict)
        except BaseException:
            manifest.close()
            raise
        return manifest

    def __len__(self) -> int:
        """Return the number of records."""
        return self._count

    def records(self, split: str | None = None) -> Iterator[Record]:
        """Stream the records in the manifest's order; may be called many times.

        Raises:
            ValueError: `split` is none of "train", "val" and "test".
        """
        if split is not None and split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        query = f"SELECT {_RECORD_COLUMNS} FROM record"
        query += " WHERE split = ?" if split is not None else ""
        arguments = () if split is None else (split,)
        with closing(self._database.cursor()) as cursor:
            cursor.execute(query + " ORDER BY number", arguments)
            for row in cursor:
                yield self._record(*row)

    def numbered_records(self, numbers: Iterable[int]) -> Iterator[Record]:
        """Yield the records of these numbers of `digests`, in their order, each looked up alone."""
        query = f"SELECT {_RECORD_COLUMNS} FROM record WHERE number = ?"
        for number in numbers:
            (row,) = self._database.execute(query, (int(number),))
            yield self._record(*row)

    def record_blocks(self, size: int) -> Iterator[RecordBlock]:
        """Stream all records in the manifest's order, `size` at a time, a column a field."""
        with closing(self._database.cursor()) as cursor:
            cursor.execute(f"SELECT {_RECORD_COLUMNS} FROM record ORDER BY number")
            while rows := cursor.fetchmany(size):
                block = RecordBlock.of(rows, self._embeddings_of(rows), self._main_folder)
                if self._whole_floats:
                    block = replace(block, metadata=list(map(self._metadata, block.metadata)))
                yield block

    def record_of(self, row: StoredRow) -> Record:
        """Return a record of a block whole."""
        return self._record(*row)

    @property
    def names_splits(self) -> bool:
        """Whether its splits are more than a hash of the ids: given, or of webdataset's shards.

        The split of an image in a shard goes by its place in the shard, whatever its id.
        """
        return self.splits_are_given or self.format == WEBDATASET

    @property
    def digests(self) -> Digests:
        """Of the records, where `open` was told to make them."""
        if self._digests is None:
            raise ValueError("open the manifest with digests=True")
        return self._digests

    @property
    def layout(self) -> str:
        """All that records depend on beside their rows: where these lie, which numbers are whole.

        Records of one `digests` row may differ where this does.
        """
        folders = [folder.as_posix() for folder in self._folders]
        return repr((folders, self._main_folder, sorted(self._whole_floats)))

    def split_counts(self) -> dict[str, int]:
        """Return the number of records in "train", "val" and "test"."""
        found = dict(self._database.execute("SELECT split, count(*) FROM record GROUP BY split"))
        return {split: found.get(split, 0) for split in SPLITS}

    def hold_out(self, share: float) -> int:
        """Move a share of the split train to val, by a hash of the ids; returns how many images."""
        return hold_out(self._database, share)

    def to_pandas(self, split: str | None = None) -> "pd.DataFrame":
        """Make a DataFrame of the records, or of a split's, all of them in memory at once.

        A row a record: `id`; `image`, which is `Record.path`, relative to `root`; `captions`, a
        list; `split`; and, where any has one, `embedding`, float32[d]. Then each metadata column:
        one of numbers is numeric, NaN where there is none; others hold None there. One with a name
        of these has `metadata_` before it. `Manifest.open(frame, images=manifest.root)` reads it
        back.

        Raises:
            UsageError: pandas is not installed.
            ValueError: `split` is none of "train", "val" and "test".
        """
        records = list(self.records(split))
        columns: dict[str, list[object]] = {
            "id": [record.id for record in records],
            "image": [record.path for record in records],
            "captions": [list(record.captions) for record in records],
            "split": [record.split for record in records],
        }
        if any(record.embedding is not None for record in records):
            columns["embedding"] = [record.embedding for record in records]
        numbers = [name for name, kind in self.columns().items() if kind == "number"]
        frame: pd.DataFrame = frame_of(columns, [record.metadata for record in records], numbers)
        return frame

    def columns(self) -> dict[str, str]:
        """Return what each metadata column holds, "number", "date" or "tag".

        See `finetune.text.numerals` for what is a number, `finetune.text.dates` for a date.
        """
        return dict(self._columns)

    def check_trainable(self) -> None:
        """Raise ManifestError unless at least two images have captions."""
        captioned = 0
        for record in self.records():
            captioned += bool(record.captions)
            if captioned == 2:
                return
        if captioned:
            raise ManifestError(f"{self.path}: only one image has a caption; training needs two")
        raise ManifestError(
            f"{self.path}: no image has a caption; training needs captions"
            f" (of a table, --caption-column names their column)"
        )

    def close(self) -> None:
        """Free the temporary disk space; the counts stay."""
        self._merger.close()
        self.problems.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _record(
        self, id: str, split: str, packed: bytes, embedding: int | None, content: bytes | None
    ) -> Record:
        stored = StoredRecord(*marshal.loads(packed))
        image: ImageSource | None = None
        number, path, exists, shard, offset, size = stored.place
        if shard is not None:
            image = ImageSource(self._folders[0] / shard, offset, size)
        elif exists:
            folder = self._folders[number] if number >= 0 else None
            file = folder / path if folder is not None else _file_of(path)
            image = ImageSource(file)
            if folder is not None and number != self._main_folder:
                path = self._path_from_root(file)
        return Record(
            id,
            path,
            image,
            stored.captions,
            split,
            self._metadata(stored.metadata or {}),
            self._embedding(embedding),
            stored.earlier_id,
            None if content is None else content.hex(),
            stored.repeats,
        )

    def _metadata(self, stored: dict[str, MetadataValue]) -> dict[str, MetadataValue]:
        if self._whole_floats:
            for name in self._whole_floats & stored.keys():
                stored[name] = without_point_zero(str(stored[name]))
        return stored

    def _path_from_root(self, file: Path) -> str:
        if self.root is not None and file.is_relative_to(self.root):
            return file.relative_to(self.root).as_posix()
        return file.as_posix()

    def _embedding(self, number: int | None) -> npt.NDArray[np.float32] | None:
        if number is None:
            return None
        return self._embeddings.row(number)

    def _embeddings_of(self, rows: Iterable[StoredRow]) -> npt.NDArray[np.float32] | None:
        """Return the embeddings of rows, float32[n, d]; None where one has none."""
        numbers = [embedding for *_, embedding, _ in rows]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            return None
        return self._embeddings.rows(known)

    def _check(self, strict: bool) -> None:
        problems = self.problems
        first = problems.examples[0] if problems.counts else None
        example = "" if first is None else f"; the first: {first.where}: {first.reason}"
        if not self._count:
            if problems.notes.get(LEFT_OUT):
                raise ManifestError(f"{self.path}: --exclude leaves out all that could be taken")
            if not problems.counts:
                raise ManifestError(f"{self.path}: it has no rows, only a header or nothing at all")
            mend = ""
            if problems.counts.get("missing file"):
                mend = "; name the folder of the images with --images FOLDER"
            raise ManifestError(
                f"{self.path}: none of its rows can be used: {problems.summary()}{example}{mend}"
            )
        if strict and problems.counts:
            check = f"clipsearch manifest check {shlex.quote(str(self.path))} --report FILE"
            if self.format == DATA_FRAME:
                check = "Manifest.open(frame).problems"
            raise ManifestError(
                f"{self.path}: {problems.summary()}{example} (strict; `{check}` names them all)"
            )
