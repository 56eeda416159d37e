"""Parquet with our own columns; embeddings as list or fixed-size list of floats."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ManifestError
from finetune.formats.lines import report_not_utf8
from finetune.formats.rows import Columns, Row
from finetune.problems import Problems

MAGIC = b"PAR1"
BATCH_ROWS = 4096


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file.

    Attributes:
        unread: Columns of bytes, which have no place in a document.
    """

    path: Path
    columns: Columns
    names: tuple[str, ...]
    unread: tuple[str, ...]
    format: str = "parquet"

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    @property
    def captioned(self) -> bool:
        """Whether a column holds captions."""
        return bool(self.columns.captions)

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
        number = -1
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=list(self.names)):
                    for values in self._values(batch):
                        number += 1
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
            problems.add("bad row", where, str(error))
            return None

    def _values(self, batch: Any) -> Iterator[dict[str, Any]]:
        """The rows of a batch; a text that is no UTF-8 comes as the error that it raised."""
        columns = [
            _vectors(column) if name == self.columns.embedding else _values_of(column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        for values in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, values, strict=True))


def recognise(path: Path, has_vectors: bool) -> ParquetTable:
    """The file as Parquet.

    Raises:
        ManifestError: it is damaged, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    unread = tuple(field.name for field in schema if _is_bytes(field.type))
    names = tuple(name for name in schema.names if name not in unread)
    columns = Columns.of(names)
    if columns.image is not None and pyarrow.types.is_struct(schema.field(columns.image).type):
        raise ManifestError(
            f"{path}: the column {columns.image!r} holds pictures, not paths; write the pictures "
            "to files and their paths to the column"
        )
    columns.check(path, schema.names, has_vectors)
    return ParquetTable(path, columns, names, unread)


def _is_bytes(type: Any) -> bool:
    import pyarrow

    kinds = pyarrow.types
    return bool(
        kinds.is_binary(type) or kinds.is_large_binary(type) or kinds.is_fixed_size_binary(type)
    )


def _values_of(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        return [_value_or_error(scalar) for scalar in column]
    return values


def _value_or_error(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def _vectors(column: Any) -> list[Any]:
    """Embeddings as arrays where they are lists of numbers, without an object for each number."""
    import pyarrow

    type = column.type
    if not (hasattr(type, "value_type") and pyarrow.types.is_floating(type.value_type)):
        return _values_of(column)
    return [
        scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None
        for scalar in column
    ]


def _damaged(path: Path, error: Exception) -> ManifestError:
    reason = str(error).splitlines()[0].rstrip(".")
    return ManifestError(f"{path}: damaged or cut off, no valid Parquet: {reason}")
