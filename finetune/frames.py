"""pandas DataFrames: as manifests, and as what results are given back in.

Nothing here imports pandas before it is needed: who passes a DataFrame has imported it.
"""

import hashlib
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from finetune.errors import ManifestError, UsageError
from finetune.installing import install_command

_ROWS_AT_ONCE = 4096
_DIGITS = 16


@runtime_checkable
class DataFrame(Protocol):
    """What is used of pandas.DataFrame, so that types can be told without pandas."""

    @property
    def iloc(self) -> Any:
        """Rows and columns by number."""

    @property
    def columns(self) -> Any:
        """The columns' names."""

    @property
    def index(self) -> Any:
        """The rows' names."""

    def copy(self) -> Any:
        """Return another one with the same values."""

    def reset_index(self, level: Any) -> Any:
        """Return another one, with levels of the index as columns."""


class FrameManifest(os.PathLike[str]):
    """A DataFrame as a manifest, under a name that is made of its content.

    It is a path of that name, "DataFrame-" and 16 hex digits, wherever a manifest is named: in
    messages, and in the settings by which an interrupted training knows itself again. So an equal
    DataFrame goes on with the run, and another one is refused.

    Attributes:
        names: Of the columns; named levels of the index come first, and are columns too.
    """

    def __init__(self, frame: DataFrame) -> None:
        """Copy the frame: what is changed in it later changes nothing here.

        Raises ManifestError where two columns have the same name.
        """
        named = [number for number, name in enumerate(frame.index.names) if name is not None]
        names = [*(frame.index.names[number] for number in named), *frame.columns]
        self.names = tuple(map(str, names))
        for name in self.names:
            if self.names.count(name) > 1:
                raise ManifestError(f"the DataFrame has two columns {name!r}; rename one of them")
        self._table = frame.reset_index(level=named) if named else frame.copy()
        digest = hashlib.sha256(repr(self.names).encode("utf-8", "surrogatepass"))
        for values in self.rows():
            digest.update(repr(list(map(_hashable, values))).encode("utf-8", "surrogatepass"))
        self._name = f"DataFrame-{digest.hexdigest()[:_DIGITS]}"

    def rows(self) -> Iterator[list[Any]]:
        """Yield the rows as Python's values, None for what is missing; arrays stay arrays."""
        for start in range(0, len(self._table), _ROWS_AT_ONCE):
            part = self._table.iloc[start : start + _ROWS_AT_ONCE]
            columns = [part.iloc[:, number].tolist() for number in range(len(self.names))]
            for values in zip(*columns, strict=True):
                yield [None if _is_missing(value) else value for value in values]

    def __fspath__(self) -> str:
        return self._name

    def __str__(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameManifest) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


# What names a manifest, once a DataFrame is one.
ManifestPath = str | Path | FrameManifest


def as_manifest(value: str | os.PathLike[str] | DataFrame) -> ManifestPath:
    """Make a manifest of a DataFrame; a path is one already.

    Raises ManifestError where two columns have the same name, UsageError for what is neither.
    """
    if isinstance(value, str | Path | FrameManifest):
        return value
    if isinstance(value, os.PathLike):
        return Path(value)
    if isinstance(value, DataFrame):
        return FrameManifest(value)
    raise UsageError(
        f"a manifest is a path or a pandas DataFrame, not of the type {type(value).__name__}"
    )


def import_pandas() -> Any:
    """Import pandas. Raises UsageError where it is not installed."""
    try:
        return import_module("pandas")
    except ImportError as error:
        raise UsageError(
            f"a DataFrame needs pandas; install it with: {install_command('pandas')}"
        ) from error


def frame_of(
    columns: Mapping[str, Sequence[object]],
    metadata: Sequence[Mapping[str, object]],
    numbers: Collection[str],
) -> Any:
    """Make a DataFrame of columns and of rows' metadata, in the order in which names first come.

    Args:
        columns: By name, n values each.
        metadata: Of n rows. A name that `columns` has too gets `metadata_` before it.
        numbers: Metadata that is numeric, NaN where a row has none; other cells stay as they are,
            None where a row has none.

    Raises UsageError where pandas is not installed.
    """
    pandas = import_pandas()
    found = {name: pandas.Series(values) for name, values in columns.items()}
    for name in dict.fromkeys(name for row in metadata for name in row):
        cells = pandas.Series([row.get(name) for row in metadata], dtype=object)
        shown = name
        while shown in found:
            shown = f"metadata_{shown}"
        found[shown] = pandas.to_numeric(cells) if name in numbers else cells
    return pandas.DataFrame(found)


def _is_missing(value: object) -> bool:
    pandas = sys.modules["pandas"]
    if value is None or value is pandas.NA or value is pandas.NaT:
        return True
    return isinstance(value, float) and math.isnan(value)


def _hashable(value: Any) -> object:
    """Return what has the same `repr` only where it is equal.

    The `repr` of a long array leaves out its middle.
    """
    return value.tolist() if hasattr(value, "tolist") else value
