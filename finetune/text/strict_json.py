"""JSON as other programs read it: Python's own writes NaN and Infinity, which are no JSON."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dumps(
    value: object,
    *,
    indent: int | None = None,
    ensure_ascii: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Return the value as JSON text; null stands for a number that JSON cannot hold.

    What is stored and read again must not have any: it is checked where it comes in.
    """
    try:
        return json.dumps(
            value, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False
        )
    except ValueError:
        value = _without_nan(value, default)
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _without_nan(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Mapping):
        # Keys of JSON are texts.
        return {str(name): _without_nan(each, default) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each, default) for each in value]
    if default is None:
        raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")
    return _without_nan(default(value), default)
