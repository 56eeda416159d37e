"""The numbers of a document once more, as a tensor: a map can not be sorted by.

A rank profile whose score is `sum(attribute(sortable) * query(by))` sorts by one of its columns,
named by `query(by)`. A document without the column scores 0.
"""

from collections.abc import Mapping

from clipsearch.engines.vespa.http.connection import Json

SORTABLE = "sortable"


def sortable(numbers: Mapping[str, float]) -> dict[str, Json]:
    """Return the field of a document, tensor<double>(column{}).

    https://docs.vespa.ai/en/reference/schemas/document-json-format.html#tensor
    """
    return {"cells": {column: float(value) for column, value in numbers.items()}}


def numbers_in(field: Json) -> dict[str, float] | None:
    """Return the numbers of the field as Vespa gives it back; None where that is not understood.

    Vespa leaves out what is empty, and writes the cells by name or one by one.
    """
    if not field:
        return {}
    cells = field.get("cells", field) if isinstance(field, dict) else field
    try:
        if isinstance(cells, dict):
            return {str(column): float(value) for column, value in cells.items()}
        return {str(one["address"]["column"]): float(one["value"]) for one in cells}
    except (TypeError, KeyError, ValueError):
        return None
