"""Documents as rows of text, in the order of their ids.

A row is the document as JSON without its embedding. A snapshot keeps all rows in one file, mapped
into memory, so that the ten documents of a page are read without touching the others.
"""

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, Embedding
from clipsearch.engines.local.arrays import map_array


def to_row(document: Document) -> str:
    """The document as one JSON text; `from_row` gives it back exactly, but for the embedding."""
    return json.dumps(
        document.to_json(),
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )


def from_row(row: str | bytes, embedding: Embedding | None = None) -> Document:
    """The document of a row."""
    return Document.from_json(json.loads(row), embedding)


@dataclass(frozen=True, slots=True)
class Rows(Sequence[Document]):
    """All documents, by id ascending.

    Attributes:
        text: The rows one after another, UTF-8.
        starts: int64[documents + 1], where each begins.
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Document:  # type: ignore[override]
        """The document of a row, 0 <= row < len."""
        return from_row(self.text[self.starts[row] : self.starts[row + 1]].tobytes())

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(len(self)))

    def find(self, document_id: str) -> int | None:
        """The row of an id; None where there is none."""
        row = bisect.bisect_left(range(len(self)), document_id, key=lambda place: self[place].id)
        return row if row < len(self) and self[row].id == document_id else None

    def save(self, folder: Path) -> None:
        """Write the rows into `folder`."""
        self.text.tofile(folder / "documents.json")
        np.save(folder / "document_starts.npy", self.starts)

    @classmethod
    def load(cls, folder: Path) -> "Rows":
        """Map what `save` wrote."""
        path = folder / "documents.json"
        empty = path.stat().st_size == 0  # which cannot be mapped
        text = np.zeros(0, np.uint8) if empty else np.asarray(np.memmap(path, np.uint8, mode="r"))
        return cls(text, map_array(folder / "document_starts.npy"))
