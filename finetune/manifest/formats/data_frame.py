"""A pandas DataFrame in memory, with the columns of a table; embeddings as lists or arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ManifestError
from finetune.frames import FrameManifest
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.row import Row
from finetune.manifest.problems import Problems

DATA_FRAME = "dataframe"


@dataclass(frozen=True)
class FrameTable:
    """A DataFrame.

    Attributes:
        root: The current folder, from which relative image paths are meant.
        unread: Columns of bytes, which have no place in a document.
    """

    frame: FrameManifest
    columns: ManifestColumns
    unread: tuple[str, ...]
    root: Path
    format: str = DATA_FRAME

    @property
    def captioned(self) -> bool:
        """Whether a column holds captions."""
        return bool(self.columns.captions)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What is tried behind an image's name."""
        return self.columns.suffixes

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows; `where` counts them from 1."""
        source = str(self.frame)
        self.columns.tell(problems, source)
        for name in self.unread:
            problems.note("column not read", source, f"{name} holds bytes, no text")
        read = [name not in self.unread for name in self.frame.names]
        for number, row in enumerate(self.frame.rows()):
            values = {
                name: value if name == self.columns.embedding else _plain(value)
                for name, value, is_read in zip(self.frame.names, row, read, strict=True)
                if is_read
            }
            try:
                yield self.columns.row(values, number, source, number + 1)
            except ValueError as error:
                problems.add("bad row", f"{source}:{number + 1}", str(error))


def recognise(frame: FrameManifest, given: ColumnNames | None = None) -> FrameTable:
    """Return the frame as a table.

    Raises:
        ManifestError: a column is missing, or that of the images holds images.
    """
    first: dict[str, Any] = {}
    for row in frame.rows():
        for name, value in zip(frame.names, row, strict=True):
            if value is not None:
                first.setdefault(name, value)
        if len(first) == len(frame.names):
            break
    unread = tuple(name for name in frame.names if isinstance(first.get(name), bytes | bytearray))
    columns = ManifestColumns.of((name for name in frame.names if name not in unread), given)
    path = Path(frame)
    image = first.get(columns.image or "")
    if isinstance(image, dict) or hasattr(image, "tobytes"):
        raise ManifestError(
            f"{path}: the column {columns.image!r} holds pictures, not paths; write the pictures "
            "to files and their paths to the column"
        )
    columns.check(path, frame.names, has_vectors=False)
    return FrameTable(frame, columns, unread, Path.cwd())


def _plain(value: Any) -> Any:
    """Return NumPy's numbers, texts and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value
