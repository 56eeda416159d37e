"""Parquet with our own columns; embeddings as list or fixed-size list of floats."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import ManifestError
from finetune.files.regular_files import open_regular
from finetune.manifest.fields.parquet_values import (
    batches,
    is_beyond,
    text_paths,
    text_size,
    values_of,
    why_bomb,
)
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.row import FiniteFloats, Row
from finetune.manifest.formats.text_lines import report_not_utf8
from finetune.manifest.problems import Problems

MAGIC = b"PAR1"
# In the metadata of a file that an index was written to: its images need no captions.
OF_AN_INDEX = b"clipsearch.index"


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file.

    Attributes:
        unread: Columns of bytes, which have no place in a document.
        text_paths: Columns of texts that are read as dictionaries.
        of_an_index: Whether an index was written to it, of which an image may have no captions.
    """

    path: Path
    columns: ManifestColumns
    names: tuple[str, ...]
    unread: tuple[str, ...]
    text_paths: tuple[str, ...] = ()
    format: str = "parquet"
    has_vectors: bool = False
    of_an_index: bool = False

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    @property
    def captioned(self) -> bool:
        """Whether a column holds captions, of each image."""
        return bool(self.columns.captions) and not self.of_an_index

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What is tried behind an image's name."""
        return self.columns.suffixes

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows in batches; `where` counts them from 1.

        Raises:
            ManifestError: the file is damaged.
        """
        # pyarrow takes a quarter of a second to import.
        import pyarrow
        import pyarrow.parquet

        for name in self.unread:
            problems.note("column not read", self.path.name, f"{name} holds bytes, no text")
        self.columns.tell(problems, self.path.name, has_vectors=self.has_vectors)
        number = -1
        characters = 0
        try:
            with (
                open_regular(self.path) as stream,
                pyarrow.parquet.ParquetFile(stream, read_dictionary=self.text_paths) as file,
            ):
                size = os.fstat(stream.fileno()).st_size
                for batch in batches(file, self.names, self.text_paths):
                    for values in self._values(batch):
                        number += 1
                        try:
                            characters += text_size(values.values())
                        except ValueError as error:
                            self._refuse(number, str(error), problems)
                            continue
                        if is_beyond(characters, size):
                            raise ManifestError(
                                f"{self.path}: its first {number + 1:,} rows repeat a few texts to"
                                f" {characters / 2**20:,.0f} MiB, as a decompression bomb does"
                            )
                        row = self._row(values, number, problems)
                        if row is not None:
                            yield row
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error

    def _row(self, values: dict[str, Any], number: int, problems: Problems) -> Row | None:
        where = f"{self.path.name}:{number + 1}"
        if any(isinstance(value, UnicodeDecodeError) for value in values.values()):
            report_not_utf8(problems, where)
            return None
        try:
            return self.columns.row(values, number, self.path.name, number + 1)
        except ValueError as error:
            self._refuse(number, str(error), problems)
            return None

    def _refuse(self, number: int, reason: str, problems: Problems) -> None:
        problems.add("bad row", f"{self.path.name}:{number + 1}", reason)

    def _values(self, batch: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a batch; a text that is no UTF-8 comes as the error that it raised."""
        columns = [
            _vectors(column) if name == self.columns.embedding else values_of(column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        for values in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, values, strict=True))


def recognise(path: Path, has_vectors: bool, given: ColumnNames | None = None) -> ParquetTable:
    """Return the file as Parquet.

    Raises:
        ManifestError: it is damaged, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with open_regular(path) as stream, pyarrow.parquet.ParquetFile(stream) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    unread = tuple(field.name for field in schema if _is_bytes(field.type))
    names = tuple(name for name in schema.names if name not in unread)
    columns = ManifestColumns.of(names, given, has_vectors=has_vectors)
    if columns.image is not None and pyarrow.types.is_struct(schema.field(columns.image).type):
        raise ManifestError(
            f"{path}: the column {columns.image!r} holds pictures, not paths; write the pictures "
            "to files and their paths to the column"
        )
    columns.check(path, schema.names, has_vectors)
    if (reason := why_bomb(metadata, names)) is not None:
        raise ManifestError(f"{path}: {reason}")
    return ParquetTable(
        path, columns, names, unread, tuple(text_paths(metadata)), has_vectors=has_vectors,
        of_an_index=OF_AN_INDEX in (schema.metadata or {}),
    )  # fmt: skip


def _is_bytes(type: Any) -> bool:
    import pyarrow

    kinds = pyarrow.types
    return bool(
        kinds.is_binary(type) or kinds.is_large_binary(type) or kinds.is_fixed_size_binary(type)
    )


def _vectors(column: Any) -> list[Any]:
    """Return embeddings as `embedding_value` takes them, without an object for each number.

    Those of one length, all finite, come as the bytes of float32 values at once.
    """
    import pyarrow

    type = column.type
    if not (hasattr(type, "value_type") and pyarrow.types.is_floating(type.value_type)):
        return values_of(column)
    if len(column) and not column.null_count:
        values = column.flatten()
        width, rest = divmod(len(values), len(column))
        if width and not rest and not values.null_count and _are_all_of(column, width):
            matrix = np.asarray(values.to_numpy(zero_copy_only=False), np.float32)
            if np.isfinite(matrix).all():
                return [FiniteFloats(row.data) for row in matrix.reshape(-1, width)]
    return [
        scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None
        for scalar in column
    ]


def _are_all_of(column: Any, width: int) -> bool:
    import pyarrow.compute

    if pyarrow.types.is_fixed_size_list(column.type):
        return True
    lengths = pyarrow.compute.list_value_length(column)
    return bool(pyarrow.compute.all(pyarrow.compute.equal(lengths, width)).as_py())


def _damaged(path: Path, error: Exception) -> ManifestError:
    reason = str(error).splitlines()[0].rstrip(".")
    return ManifestError(f"{path}: damaged or cut off, no valid Parquet: {reason}")
