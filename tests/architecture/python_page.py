"""Write docs/reference/python.md: what is meant for use from Python, from its docstrings.

python tests/architecture/python_page.py
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clipsearch
import finetune
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.search.options import QueryOptions
from finetune.errors import ClipsearchError
from finetune.manifest.manifest import Manifest, Record
from finetune.training.train import Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "python.md"
WIDTH = 96
INTRODUCTION = """\
# Python

What is named here is meant for use from outside, and is imported from the package that heads its
section (`from clipsearch import Search`); what else there is may move. This page is made by
`make python` from the docstrings, which `help(clipsearch.Search)` shows too.
"""
ERRORS = """\
Each says in one sentence what is wrong and what to do. `clipsearch.ClipsearchError` is all of them;
`UsageError`, `ManifestError`, `ImageError`, `EncoderError`, `EngineError` and
`DocumentNotFoundError` are its kinds that a caller may want to tell apart.
"""
SETTINGS = """\
`finetune.TrainConfig(manifest, **settings)` says what to train on, and how: its settings, with
their kinds, defaults and ranges, are those of [the table of settings](../settings.md).
"""
# What a section of a docstring is called on the page.
SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Raises:": "Raises"}
_ENTRY = re.compile(r"((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*): (.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Told:
    """A docstring, taken apart: paragraphs, and the entries of its sections by their names."""

    text: list[str]
    sections: dict[str, dict[str, str]]

    @classmethod
    def of(cls, thing: object) -> "Told":
        text: list[str] = []
        sections: dict[str, dict[str, str]] = {}
        for part in (inspect.getdoc(thing) or "").split("\n\n"):
            head, _, rest = part.partition("\n")
            if head not in SECTIONS:
                text.append(part)
                continue
            entries = sections.setdefault(SECTIONS[head], {})
            for each in re.split(r"\n(?=\S)", textwrap.dedent(rest)):
                named = _ENTRY.fullmatch(" ".join(each.split()))
                assert named is not None, (thing, each)
                entries[named.group(1)] = named.group(2)
        return cls(text, sections)


def lines_of(told: Told) -> Iterator[str]:
    """The text of a docstring, and its sections as lists."""
    for part in told.text:
        example = part.startswith(">>>")
        yield f"```python\n{part}\n```\n" if example else f"{part}\n"
    for title, entries in told.sections.items():
        yield f"{title}:\n"
        yield "\n".join(f"- **{name}**: {text}" for name, text in entries.items()) + "\n"


def signature(function: Callable[..., Any], name: str) -> str:
    """A function's signature as its source has it, a parameter a line where it is long."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    parts = [_annotation(part) for part in _parameters(tree.args)]
    returns = "" if tree.returns is None else f" -> {_annotation(ast.unparse(tree.returns))}"
    whole = f"{name}({', '.join(parts)}){returns}"
    if len(whole) <= WIDTH:
        return whole
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    named = [each for each in arguments.args if each.arg not in ("self", "cls")]
    defaults = [*[None] * (len(named) - len(arguments.defaults)), *arguments.defaults]
    for each, default in zip(named, defaults, strict=True):
        yield ast.unparse(each) + ("" if default is None else f" = {ast.unparse(default)}")
    if arguments.kwonlyargs:
        yield "*"
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield ast.unparse(each) + ("" if default is None else f" = {ast.unparse(default)}")
    if arguments.kwarg is not None:
        yield f"**{ast.unparse(arguments.kwarg)}"


def _annotation(text: str) -> str:
    """Annotations that stand in quotes, without them, and options by their short name."""
    text = re.sub(r"(?<=: )'([^']*)'|(?<=-> )'([^']*)'|^'([^']*)'$", _unquoted, text)
    text = re.sub(r"'([^'\"]*)'", r'"\1"', text)
    return re.sub(r"Unpack\[\w+\]", "...", text.replace("npt.", "numpy.typing."))


def _unquoted(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)


def code(text: str) -> str:
    """Python, in a fence."""
    return f"```python\n{text}\n```\n"


def function(thing: Callable[..., Any], name: str, *, depth: int) -> Iterator[str]:
    """The entry of a function or a method."""
    yield f"{'#' * depth} {name}\n"
    yield code(signature(thing, name.rpartition(".")[2]))
    yield from lines_of(Told.of(thing))


def options(thing: type) -> Iterator[str]:
    """The fields of a dataclass as a table: name, kind, default, and what the docstring says."""
    meanings = meanings_of(thing)
    yield "| name | kind | default | meaning |\n|---|---|---|---|"
    for each in dataclasses.fields(thing):
        default = "" if each.default is dataclasses.MISSING else f"`{each.default!r}`"
        kind = _kind(each.type).replace("|", "\\|")
        meaning = meanings[each.name].replace("|", "\\|")
        yield f"| `{each.name}` | `{kind}` | {default} | {meaning} |"
    yield ""


def _kind(annotation: Any) -> str:
    """An annotation by the short names of its types."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)
    return re.sub(r"Optional\[(.*)\]$", r"\1 | None", text)


def meanings_of(thing: type) -> dict[str, str]:
    """What the docstrings of a dataclass, and of those before it, say of each of its fields."""
    found: dict[str, str] = {}
    for each in reversed(thing.__mro__):
        for names, text in Told.of(each).sections.get("Attributes", {}).items():
            found |= dict.fromkeys(names.split(", "), text)
    return found


def record(thing: type, name: str, *, methods: bool = True) -> Iterator[str]:
    """The entry of a class: its text, its fields as a table, its methods and properties."""
    yield f"### {name}\n"
    told = Told.of(thing)
    if dataclasses.is_dataclass(thing):
        yield from lines_of(Told(told.text, {}))
        yield from options(thing)
    else:
        yield from lines_of(told)
    if not methods:
        return
    for key, value in vars(thing).items():
        member = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if key.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"#### {name}.{key}\n"
            assert member.fget is not None
            returns = inspect.signature(member.fget).return_annotation
            yield code(f"{key}: {_kind(returns)}")
            yield from lines_of(Told.of(member))
        elif inspect.isfunction(member):
            yield from function(member, f"{name}.{key}", depth=4)


def parts() -> Iterator[str]:
    """The page in its order."""
    yield INTRODUCTION
    yield "## clipsearch\n"
    yield from function(clipsearch.open, "open", depth=3)
    yield "### feed\n"
    call = type(clipsearch.feed).__call__
    yield code(signature(call, "feed"))
    yield from lines_of(Told.of(call))
    yield "Its options:\n"
    yield from options_beside(FeedOptions, ("manifest", "index"))
    for thing in (FeedReport, clipsearch.Search):
        yield from record(thing, thing.__name__)
    yield "### Options of a query\n"
    yield "`Search.query`, `Search.similar` and `Client.query` take them; `list` the first five.\n"
    yield from options(QueryOptions)
    for name in ("Page", "Hit", "Document", "Encoder", "Client", "Part"):
        yield from record(getattr(clipsearch, name), name)
    yield from function(clipsearch.learn_word_share, "learn_word_share", depth=3)
    yield f"### Errors\n\n{ERRORS}"
    yield from lines_of(Told.of(ClipsearchError))
    yield "## finetune\n"
    yield from function(finetune.train, "train", depth=3)
    yield from record(Result, "Result")
    yield f"### TrainConfig\n\n{SETTINGS}"
    for thing in (Manifest, Record):
        yield from record(thing, thing.__name__)


def options_beside(thing: type, arguments: tuple[str, ...]) -> Iterator[str]:
    """The table of options, without those that are arguments by themselves."""
    for line in options(thing):
        if not any(line.startswith(f"| `{name}` |") for name in arguments):
            yield line


def made() -> str:
    """The whole page."""
    return "\n".join(parts()).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
