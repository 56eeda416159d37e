"""Hugging Face imagefolder: images with a `metadata.jsonl`, `.csv` or `.parquet` beside them.

`file_name` is relative to the metadata file, which lies in the folder itself or in one below
(`train/metadata.csv`, `test/metadata.csv`), whose name then gives the split.
https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import ManifestError
from finetune.files.regular_files import open_regular
from finetune.manifest.formats import delimited, json_lines, parquet
from finetune.manifest.formats.columns import ColumnNames
from finetune.manifest.formats.row import ManifestSource, Row
from finetune.manifest.problems import Problems
from finetune.manifest.splits import split_of_word

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class HuggingFaceImageFolder:
    """A folder with one metadata file, or with one in several of its folders."""

    root: Path
    parts: tuple[ManifestSource, ...]
    format: str = "imagefolder"
    suffixes: tuple[str, ...] = ("",)

    @property
    def captioned(self) -> bool:
        """Whether any metadata file has captions."""
        return any(part.captioned for part in self.parts)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows of all parts, image paths made relative to the folder."""
        before = 0
        for part in self.parts:
            folder = part.root.relative_to(self.root).as_posix()
            prefix = "" if folder == "." else folder + "/"
            split = folder if split_of_word(folder) else None
            last = -1
            for row in part.rows(problems):
                last = row.number
                image = prefix + row.image if row.image else ""
                source = prefix + row.source
                yield row._replace(
                    number=before + last, source=source, image=image, split=row.split or split
                )
            before += last + 1


def recognise(root: Path, given: ColumnNames | None = None) -> HuggingFaceImageFolder | None:
    """Return the folder as imagefolder; None where it has no metadata file with `file_name`.

    Raises:
        ManifestError: a metadata file is damaged, or `given` names a column that it has not.
    """
    folders = [root, *sorted(each for each in root.iterdir() if _is_visible_folder(each))]
    parts = [part for folder in folders if (part := _part(folder, given)) is not None]
    return HuggingFaceImageFolder(root, tuple(parts)) if parts else None


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _part(folder: Path, given: ColumnNames | None) -> ManifestSource | None:
    try:
        found = [folder / name for name in NAMES if (folder / name).is_file()]
    except OSError:
        # A folder that cannot be looked into is told of by `folder`, and spoils no other.
        return None
    if len(found) > 1:
        raise ManifestError(f"{folder}: has {found[0].name} and {found[1].name}; remove one")
    return _read_part(found, given) if found else None


def _read_part(found: Sequence[Path], given: ColumnNames | None) -> ManifestSource | None:
    path = found[0]
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    # Another table may have that name too; Parquet has its columns at the end.
    if b"file_name" not in head.lower() and not head.startswith(parquet.MAGIC):
        return None
    part: ManifestSource | None
    if head.startswith(parquet.MAGIC):
        part = parquet.recognise(path, False, given)
        names: tuple[str, ...] = (part.columns.image or "",)
    elif (text := delimited.recognise(path, head, False, given)) is not None:
        part, names = text, (text.columns.image or "",)
    elif (lines := json_lines.recognise(path, head, False, given)) is not None:
        part, names = lines, (lines.columns.image or "",)
    else:
        return None
    return part if names[0].lower() == "file_name" else None
