"""Dataclasses from JSON, each value of the kind that its field is annotated with."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def record(cls: type[T], values: Mapping[str, Any]) -> T:
    """Read a dataclass from the object that JSON has for it.

    Keys that it does not know are left out.

    Raises TypeError where a field is missing or not of the kind that it is annotated with.
    """
    kinds = get_type_hints(cls)
    kept = {name: _read(value, kinds[name]) for name, value in values.items() if name in kinds}
    for name, value in kept.items():
        if not _is_of(value, kinds[name]):
            raise TypeError(f"{name} is not of the kind that it should be")
    return cls(**kept)


def _read(value: Any, kind: Any) -> Any:
    """Return a value of JSON as a field of this kind has it; as it is where it cannot be one."""
    if isinstance(value, list | tuple) and get_origin(kind) is tuple:
        return tuple(_read(each, get_args(kind)[0]) for each in value)
    if isinstance(value, dict):
        for one in (kind, *get_args(kind)):  # of a union, too
            if isinstance(one, type) and is_dataclass(one):
                return record(one, value)
    return value


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value read from JSON is of the kind that a field is annotated with."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(one, parts[0]) for one in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in parts
    if parts:
        return any(_is_of(value, part) for part in parts)
    return type(value) is kind or (kind is float and type(value) is int)
