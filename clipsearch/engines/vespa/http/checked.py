"""JSON that came from outside, each value of the kind that it should be.

json.loads gives whatever stands there: what is not as Vespa's answers are is one error, wherever it
is found, and never a value of another kind.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from clipsearch.documents import Embedding
from clipsearch.engines.vespa.http.connection import Json
from finetune.errors import EngineError

# Half of a character beyond U+FFFF: JSON may name it, but it is no text, and cannot be printed.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_MOST = 2**63 - 1


class MalformedAnswerError(EngineError):
    """An answer is JSON, but not as Vespa's answers are."""

    def __init__(self, what: str, wanted: str) -> None:
        super().__init__(f"an answer of Vespa cannot be read: {what} is not {wanted}")


def mapping(value: Json, what: str) -> Mapping[str, Json]:
    """Return an object; empty where there is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedAnswerError(what, "an object")
    return value


def listed(value: Json, what: str) -> Sequence[Json]:
    """Return an array; empty where there is none."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise MalformedAnswerError(what, "an array")
    return value


def objects(value: Json, what: str) -> list[Mapping[str, Json]]:
    """Return an array of objects; empty where there is none."""
    found = listed(value, what)
    if not all(isinstance(one, dict) for one in found):
        raise MalformedAnswerError(what, "an array of objects")
    return list(found)


def text(value: Json, what: str) -> str:
    """Return a string; empty where there is none."""
    if value is None:
        return ""
    if not isinstance(value, str) or _HALF_CHARACTER.search(value):
        raise MalformedAnswerError(what, "text")
    return value


def number(value: Json, what: str) -> float:
    """Return a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found):
            return found
    raise MalformedAnswerError(what, "a finite number")


def count(value: Json, what: str) -> int:
    """Return a whole number from 0 on."""
    if whole(value, what) < 0:
        raise MalformedAnswerError(what, "a count")
    return int(value)


def whole(value: Json, what: str) -> int:
    """Return a whole number of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not -_MOST - 1 <= value <= _MOST:
        raise MalformedAnswerError(what, "a whole number")
    return value


def vector(value: Json, what: str) -> Embedding:
    """Return an array of finite numbers, as float32."""
    values = listed(value, what)
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        found = np.asarray(np.nan, dtype=np.float32)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise MalformedAnswerError(what, "an array of finite numbers")
    return found
