"""Which module of ours imports which."""

import ast
from collections.abc import Iterator
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


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Every module of ours that a file imports: at its top, in functions, and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inner)


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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module not in known:
            continue
        names = own_names(known[node.module])
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if alias.name not in names and name not in known:
                yield name


@cache
def own_names(path: Path) -> frozenset[str]:
    """Those that a module defines."""
    return frozenset(defined(ast.parse(path.read_text(encoding="utf-8")).body))


def graph() -> Imports:
    """Every module with those that it imports."""
    known = modules()
    return {name: set(imported(path, known)) - {name} for name, path in known.items()}
