"""Values of every kind, to stand where others are expected."""

import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st


def deep() -> Any:
    """Deeper than anything can be printed, but not than it can be parsed."""
    made: Any = "deep"
    for _ in range(900):
        made = [made]
    return made


MOST_DEEP = 9
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -1, 10**400, -(10**400), 0, 1]),
    st.floats(),
    st.sampled_from([math.inf, -math.inf, 1e308, 5e-324, 1e-320]),
    st.text(st.characters(exclude_categories=()), max_size=5),
    st.sampled_from(["id", "group:root:0", "\ud800", "NaN", "12", 'tags{"a"}']),
)
NAMES = (
    "root children fields id coverage errors message summary totalCount relevance matchfeatures"
    " lexical cosine captions tags numbers embedding values label value count() continuation nodes"
    " full degraded results resultsFull documents pathId"
)
VALUES = st.recursive(
    SCALARS | st.builds(deep),
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES.split()), part, max_size=4)
    ),
    max_leaves=12,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a JSON value."""
    yield at
    if isinstance(value, dict | list) and len(at) < MOST_DEEP:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts)[:30]:
            yield from places(part, (*at, key))
