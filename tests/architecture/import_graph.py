"""Which module of ours imports which."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("finetune", "clipsearch")
Imports = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module by its name; a package's is the name of its folder."""
    found = {}
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@dataclass(frozen=True)
class Source:
    """What a file imports, and the names that it defines at its top."""

    whole: tuple[str, ...]
    names: tuple[tuple[str, str], ...]  # (module, name) of `from module import name`
    defines: frozenset[str]


@cache
def source(path: Path) -> Source:
    """Read a file: its imports at the top, in functions, and for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole: list[str] = []
    names: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            whole += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [(node.module, alias.name) for alias in node.names]
    return Source(tuple(whole), tuple(names), frozenset(defined(tree.body)))


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Every module of ours that a file imports."""
    yield from (name for name in source(path).whole if name in known)
    for module, name in source(path).names:
        if module in known:
            inner = f"{module}.{name}"
            yield inner if inner in known else module


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """The names that a module defines at its top, those under conditions too."""
    for node in body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.Assign(targets=targets):
                yield from (
                    each.id
                    for target in targets
                    for each in ast.walk(target)
                    if isinstance(each, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try() | ast.With():
                inner = [*node.body, *getattr(node, "orelse", [])]
                for handler in getattr(node, "handlers", []):
                    inner += handler.body
                yield from defined(inner)


def second_homes(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """What a file imports from a module of ours that does not define it: "module.name"."""
    for module, name in source(path).names:
        if module in known and name not in source(known[module]).defines:
            inner = f"{module}.{name}"
            if inner not in known:
                yield inner


def graph() -> Imports:
    """Every module with those that it imports."""
    known = modules()
    return {name: set(imported(path, known)) - {name} for name, path in known.items()}
