"""Draw the rooms and their imports for docs/architecture.md: `make diagram`.

An arrow means "imports"; one that follows from others is left out. Files that lie in no room are
joined: those of `finetune`, with its folders of texts and files, are "basics", those of
`clipsearch` "contracts". What the page says of a room is the first line of its docstring.
"""

import ast
from collections.abc import Iterable, Iterator

from import_graph import PACKAGES, REPOSITORY, Imports, graph, modules
from layered_drawing import drawing

PAGE = REPOSITORY / "docs" / "architecture.md"
PICTURE = REPOSITORY / "docs" / "rooms.svg"
SHOWN = "![Rooms of clipsearch (green) and finetune (yellow), and what each imports](rooms.svg)"
BEGIN, END = "<!-- made by `make diagram` -->\n", "<!-- end of what `make diagram` makes -->\n"
BASICS = ("files", "text")
# Of a contract's own, though it is one file.
ALONE = ("encoder_folder",)
JOINED = {"finetune": "basics", "clipsearch": "contracts"}
# Public faces and entry points: what they are made of lies in these rooms.
FACES = {"finetune.metrics": "evaluation", "clipsearch.__main__": "cli"}


def room(module: str, folders: Iterable[str]) -> str:
    """The node of a module, `package.room`; empty for a package itself."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if not name:
        return ""
    if module in FACES:
        name = FACES[module]
    elif name in BASICS or (name not in ALONE and f"{package}.{name}" not in folders):
        name = JOINED[package]
    return f"{package}.{name}"


def rooms(imports: Imports) -> Imports:
    """The arrows between rooms."""
    folders = {name for name, path in modules().items() if path.name == "__init__.py"}
    arrows: Imports = {}
    for module, others in imports.items():
        here = room(module, folders)
        found = {room(other, folders) for other in others}
        if here:
            arrows.setdefault(here, set()).update(found - {here, ""})
    return arrows


def reached(arrows: Imports, start: str) -> set[str]:
    """Every room that one imports, itself or through others."""
    found: set[str] = set()
    ahead = list(arrows[start])
    while ahead:
        here = ahead.pop()
        if here not in found:
            found.add(here)
            ahead += arrows[here]
    return found


def fewest(arrows: Imports) -> Imports:
    """Only arrows that do not follow from others; there must be no circle."""
    below = {here: reached(arrows, here) for here in arrows}
    return {
        here: {other for other in others if not any(other in below[each] for each in others)}
        for here, others in arrows.items()
    }


def sentences() -> Iterator[str]:
    """Two tables for each package: its rooms, and its files that lie in none."""
    found = {
        path.relative_to(REPOSITORY): (ast.get_docstring(ast.parse(path.read_text())) or "\n")
        for path in modules().values()
    }
    told = {path: text.splitlines()[0] for path, text in sorted(found.items())}
    for package in PACKAGES:
        own = {path: text for path, text in told.items() if path.parts[0] == package}
        yield f"\n| room of `{package}/` | |\n|---|---|"
        for path, text in own.items():
            if path.name == "__init__.py" and len(path.parts) > 2:
                folder = "/".join(path.parts[1:-1])
                yield f"| [`{folder}/`](../{path.parent}) | {text} |"
        yield f"\n| file of `{package}/` | |\n|---|---|"
        for path, text in own.items():
            if len(path.parts) == 2 and not path.name.startswith("__"):
                yield f"| [`{path.name}`](../{path}) | {text} |"


def made() -> str:
    """What belongs between BEGIN and END of the page."""
    return "\n".join([SHOWN, *sentences()]) + "\n"


def drawn() -> str:
    """The picture."""
    return drawing(fewest(rooms(graph())))


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PICTURE.write_text(drawn(), encoding="utf-8")
    PAGE.write_text(before + BEGIN + made() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
