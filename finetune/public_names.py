"""Public names of a package that lie in its modules, and are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__`: a part of it imports without the rest (no torch, say).

    Args:
        package: Its name, for the AttributeError of any other name.
        homes: By public name, the module that has it, or that is it.
    """

    def load(name: str) -> Any:
        if name in homes:
            if homes[name] == f"{package}.{name}":
                return importlib.import_module(homes[name])
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load


def lister(names: Sequence[str]) -> Callable[[], list[str]]:
    """Make a package's `__dir__`: its public names, imported or not yet."""

    def listed() -> list[str]:
        return sorted(names)

    return listed
