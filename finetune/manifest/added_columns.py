"""Columns that a manifest's images bring themselves: their folders, and what the camera wrote.

A column of the manifest itself stands. Reading EXIF opens each image at each reading of the
manifest, whether it has changed or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.images.address_cache import cached_file
from finetune.images.addresses import is_address
from finetune.images.exif import exif_facts
from finetune.images.source import ImageSource
from finetune.manifest.formats.folder import ImageFolder
from finetune.manifest.formats.row import ManifestSource, MetadataValue, Row
from finetune.manifest.formats.wrapped import WrappedSource
from finetune.manifest.image_lookup import ImageLookup, normalise
from finetune.manifest.problems import Problems

FolderTags = Literal["path", "levels", "none"]
FOLDER_COLUMN = "folder"


@dataclass(frozen=True, slots=True)
class AddedColumns:
    """Which columns are added.

    Attributes:
        folders: Of a folder of images, the folder below it that an image lies in: as one column,
            `folder`; "levels" adds one a level (`folder_1`, `folder_2` …); "none" adds none.
        exif: `taken`, `camera`, `latitude` and `longitude` of each image's EXIF.
    """

    folders: FolderTags = "none"
    exif: bool = False

    def to(self, source: ManifestSource, lookup: ImageLookup) -> ManifestSource:
        """Return the source with these columns; the same where none is added to it."""
        folders = self.folders if isinstance(source, ImageFolder) else "none"
        if folders == "none" and not self.exif:
            return source
        return _WithColumns(source, lookup, folders, self.exif)


NO_COLUMNS = AddedColumns()
FOLDER_TAG = AddedColumns(folders="path")


@dataclass(frozen=True)
class _WithColumns(WrappedSource):
    """A manifest with columns added; see `AddedColumns`."""

    lookup: ImageLookup
    folders: FolderTags
    exif: bool

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows with their columns."""
        for row in self.source.rows(problems):
            added: dict[str, MetadataValue] = dict(folder_tags(row.image, self.folders))
            if self.exif and (image := self._image(row)) is not None:
                added |= exif_facts(image)
            yield row._replace(metadata={**added, **(row.metadata or {})}) if added else row

    def _image(self, row: Row) -> ImageSource | None:
        if row.shard is not None:
            return ImageSource(self.source.root / row.shard, row.offset, row.size)
        found = self.lookup.find(normalise(row.image)) if row.image else None
        if found is None:
            return None
        if is_address(found.path):
            return ImageSource(cached_file(found.path))
        folder = self.lookup.folders[found.folder] if found.folder >= 0 else Path()
        return ImageSource(folder / found.path)


def folder_tags(image: str, folders: FolderTags) -> dict[str, str]:
    """Return the tags of an image's folder, by its path from the folder that is read."""
    folder = image.rpartition("/")[0]
    if not folder or folders == "none":
        return {}
    tags = {FOLDER_COLUMN: folder}
    if folders == "levels":
        parts = folder.split("/")
        tags |= {f"{FOLDER_COLUMN}_{level}": part for level, part in enumerate(parts, 1)}
    return tags
