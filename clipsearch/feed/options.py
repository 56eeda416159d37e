"""What a feed is asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from clipsearch.encoder.encoder import check_precision
from clipsearch.feed.data_sets import Wish
from clipsearch.feed_facts import DataSet
from finetune.errors import UsageError
from finetune.frames import DataFrame, FrameManifest
from finetune.images.addresses import FetchLimits
from finetune.manifest.added_columns import FOLDER_TAG, AddedColumns, FolderTags
from finetune.manifest.formats.columns import ColumnNames
from finetune.several import check_several
from finetune.towers import FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """What to feed, into what, and how.

    Attributes:
        manifest: The manifest, of any format that `Manifest.open` reads, or a pandas DataFrame;
            `data_set` must name the data set that a DataFrame is, since it lies nowhere. Its
            relative image paths are meant from the current folder.
        index: A folder (embedded engine, made at the first feed) or an http(s) address (Vespa).
        encoder: Its folder, or its id on the Hugging Face hub. None takes the index's own, else the
            manifest's ready-made vectors, else (`clipsearch.hub`) the default one.
        vectors_of: The encoder, as in `encoder`, that made the manifest's ready-made vectors: the
            index takes these and knows it; images that are there are not encoded.
        images: Where relative paths are looked for last; None is where the last feed of the same
            manifest was told, if that is still there.
        folder_tags: Of a folder of images, the folder below it that an image lies in as a tag:
            "path", "levels" (with a tag more a level) or "none"; None is as the last feed of the
            same manifest, or else "path".
        exif: Whether `taken`, `camera`, `latitude` and `longitude` are read of each image; None is
            as the last feed of the same manifest, or else not.
        exclude: Patterns of images that are left out, see `finetune.manifest.exclusion`; None is as
            the last feed of the same manifest, or else none.
        columns: Of a table whose names do not say which is which; None goes by the names.
        splits: Of "train", "val", "test"; all where empty.
        tags, numbers, dates: New metadata columns to keep as tags, as numbers, as dates, whatever
            their values say.
        prune: Remove documents of this data set that the manifest no longer has.
        data_set: The name of the data set that the manifest is; None finds out
            (`clipsearch.feed.data_sets`).
        id_prefix: What the ids of its documents begin with; None is the data set's.
        language: Of the text analysis; None is the index's, or English for a new one.
        workers: Processes that decode images; None is one a core (on "cuda" two fewer), or none for
            a few images. 0 decodes in this process.
        batch_size: Images encoded at once; None is 32 on the CPU and 256 on a GPU.
        device: "auto", "cpu", "cuda" or "cuda:N", for the encoder.
        precision: Of the image tower on "cuda": "fp32" or "bf16", see `Encoder.load`.
        report: The report file; None is in the index's folder.
        ledger: The ledger; None is `ledger_path`.
        addresses: How images that the manifest names by address are fetched.
        strict: Feed nothing where the manifest has any problem.
    """

    manifest: str | Path | DataFrame | FrameManifest
    index: str
    encoder: str | Path | None = None
    vectors_of: str | Path | None = None
    images: Path | None = None
    columns: ColumnNames | None = None
    folder_tags: FolderTags | None = None
    exif: bool | None = None
    exclude: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    prune: bool = False
    data_set: str | None = None
    id_prefix: str | None = None
    language: str | None = None
    workers: int | None = None
    batch_size: int | None = None
    device: str = "cpu"
    precision: str = FP32
    report: Path | None = None
    ledger: Path | None = None
    addresses: FetchLimits | None = None
    strict: bool = False

    @property
    def added(self) -> AddedColumns:
        """Columns that the images bring themselves."""
        return AddedColumns(self.folder_tags or FOLDER_TAG.folders, exif=bool(self.exif))

    def after(self, last: DataSet) -> "FeedOptions":
        """Return these options with what the last feed of the data set was told, and they lack."""
        folder = Path(last.images) if last.images else None
        tags = next((each for each in get_args(FolderTags) if each == last.folder_tags), None)
        return replace(
            self,
            images=folder if self.images is None and folder and folder.is_dir() else self.images,
            folder_tags=self.folder_tags or tags,
            exif=last.exif if self.exif is None else self.exif,
            exclude=last.exclude if self.exclude is None else self.exclude,
        )

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        for name in ("splits", "tags", "numbers", "dates", "exclude"):
            check_several(getattr(self, name) or (), f"FeedOptions.{name}")
        check_precision(self.device, self.precision)
        if self.encoder is not None and self.vectors_of is not None:
            raise UsageError(
                "--encoder encodes the images, --vectors-of takes the vectors that the manifest"
                " brings: give one of them"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 or more")
        Wish(self.data_set, self.id_prefix).check()
        if not isinstance(self.manifest, str | Path) and self.data_set is None:
            raise UsageError(
                "a DataFrame lies nowhere, so that the index could not know it again: name the data"
                ' set that it is: data_set="photos"'
            )
