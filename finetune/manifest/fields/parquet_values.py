"""Values out of Parquet columns, in no more memory than the file and its rows justify.

A few bytes of Parquet can stand for very many: a text that a dictionary holds once and a million
rows refer to, a list of a billion equal numbers, a page of zeros. So texts stay in their
dictionaries until a row is made, and columns that expand beyond reason are refused.
"""

from collections.abc import Iterable, Iterator
from typing import Any

# A column of fewer bytes than this, unpacked, is never refused.
MUCH_BYTES = 256 << 20
# Texts that repeat are kept once by a dictionary before they are compressed, so that real columns
# stay far below this.
MOST_EXPANSION = 200
# Of all texts in one value of a row.
MAX_TEXT_BYTES = 16 << 20

_BATCH_ROWS = 4096
_NUMBER_BYTES = 8


def why_bomb(metadata: Any, names: Iterable[str]) -> str | None:
    """Return why a Parquet file is refused before it is read; None for nearly all.

    Args:
        metadata: pyarrow's FileMetaData.
        names: The columns that are to be read.
    """
    wanted = set(names)
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema.partition(".")[0] not in wanted:
                continue
            unpacked = column.total_uncompressed_size
            if metadata.schema.column(number).max_repetition_level:
                # Equal numbers take no room in the file, and all of it in memory, a row's at once.
                unpacked = max(unpacked, column.num_values * _NUMBER_BYTES)
            packed = max(column.total_compressed_size, 1)
            if is_beyond(unpacked, packed):
                return (
                    f"its column {column.path_in_schema} unpacks from {packed / 2**20:,.2f} MiB to"
                    f" {unpacked / 2**20:,.0f} MiB, as a decompression bomb does; write the file"
                    " without compression"
                )
    return None


def text_paths(metadata: Any) -> list[str]:
    """Return the columns whose texts may stay in dictionaries: texts, and lists of texts."""
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and ("." not in column.path or _is_plain_list(column))
    ]


def batch_rows(metadata: Any, names: Iterable[str]) -> int:
    """Return rows to read at once: fewer where texts lie deeper than `text_paths` goes."""
    wanted, kept = set(names), set(text_paths(metadata))
    largest = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            path = column.path_in_schema
            is_text = column.physical_type == "BYTE_ARRAY"
            if is_text and path.partition(".")[0] in wanted and path not in kept:
                largest = max(largest, column.total_uncompressed_size)
    return max(1, min(_BATCH_ROWS, MUCH_BYTES // max(largest, 1)))


def batches(file: Any, names: Iterable[str], paths: Iterable[str]) -> Iterator[Any]:
    """Yield the record batches of a Parquet file, with `paths` read as dictionaries."""
    names, rows = list(names), batch_rows(file.metadata, names)
    if not any("." in path for path in paths):
        yield from file.iter_batches(rows, columns=names)
        return
    # pyarrow cannot join lists of texts whose row groups have dictionaries of their own.
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(rows, columns=names, row_groups=[group])


def values_of(column: Any) -> list[Any]:
    """Return a column of a batch as Python's values; equal texts of a dictionary are one object.

    A text that is no UTF-8 comes as the UnicodeDecodeError that it raised.
    """
    import pyarrow  # a quarter of a second

    kinds = pyarrow.types
    if kinds.is_dictionary(column.type):
        return _dictionary_values(column)
    is_list = kinds.is_list(column.type) or kinds.is_large_list(column.type)
    if is_list and kinds.is_dictionary(column.type.value_type):
        return _lists_of_texts(column)
    return _plain_values(column)


def text_size(values: Iterable[Any]) -> int:
    """Return how many characters of text a row has.

    Raises ValueError where one value has above MAX_TEXT_BYTES.
    """
    total = 0
    for value in values:
        if isinstance(value, list) and value and isinstance(value[0], str):
            size = sum(len(text) for text in value if isinstance(text, str))
        else:
            size = len(value) if isinstance(value, str) else 0
        if size > MAX_TEXT_BYTES:
            raise ValueError(
                f"a value of {size / 2**20:,.0f} MiB of text, above the limit of"
                f" {MAX_TEXT_BYTES >> 20} MiB"
            )
        total += size
    return total


def is_beyond(unpacked: int, packed: int) -> bool:
    """Return whether so many bytes out of so few are no real column's."""
    return unpacked > MUCH_BYTES and unpacked > MOST_EXPANSION * packed


def _is_plain_list(column: Any) -> bool:
    return bool(column.max_repetition_level == 1 and column.path.count(".") == 2)


def _dictionary_values(column: Any) -> list[Any]:
    used = column.indices.unique()
    texts = dict(zip(used.to_pylist(), _plain_values(column.dictionary.take(used)), strict=True))
    return [texts[index] for index in column.indices.to_pylist()]


def _lists_of_texts(column: Any) -> list[Any]:
    texts = iter(_dictionary_values(column.flatten()))
    return [_list_or_error(texts, length) for length in column.value_lengths().to_pylist()]


def _list_or_error(texts: Any, length: int | None) -> Any:
    if length is None:
        return None
    values = [next(texts) for _ in range(length)]
    return next((value for value in values if isinstance(value, UnicodeDecodeError)), values)


def _plain_values(column: Any) -> list[Any]:
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
