"""Write docs/settings.md: every setting of a training run, from where it is declared.

python tests/architecture/settings_page.py
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from finetune.config.setting import (
    Group,
    Setting,
    default_shown,
    option_of,
    settings_of,
)
from finetune.config.settings import TrainConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
INTRODUCTION = """\
# The settings of a training run

Each is a field of `finetune.TrainConfig`, a line of a recipe, and an option of `clipsearch
finetune`. An option overrides a recipe's value; `none` takes it away where the setting may be left
out. An interrupted run goes on only with the settings that it began with, but for those that "may
change": they change no weight, but by rounding. How to use the settings stands in
[finetuning.md](finetuning.md). This page is made by `make settings`.
"""
HEAD = """\
| setting | option | type | default | range | may change | what it does |
|---|---|---|---|---|---|---|"""
NO_OPTION = {
    "manifest": "the first MANIFEST",
    "more_manifests": "further MANIFESTs",
    "recipe": "set by `--recipe`",
}
KINDS = {bool: "yes or no", int: "whole number", float: "number", str: "text"}


def declared(
    kind: type, prefix: str = "", *, operational: bool = False
) -> Iterator[tuple[str, Setting, Any, object, bool]]:
    """Name, setting, type, default, and whether it may change, of what has no settings within."""
    hints, known = get_type_hints(kind), settings_of(kind)
    for item in fields(kind):
        setting, hint = known[item.name], hints[item.name]
        changes = operational or setting.operational
        if isinstance(hint, type) and is_dataclass(hint) and settings_of(hint):
            yield from declared(hint, f"{item.name}.", operational=changes)
        else:
            yield prefix + item.name, setting, hint, item.default, changes


def type_shown(setting: Setting, hint: Any) -> str:
    """In words: "whole number", "several of `image`, `text`"."""
    kinds = set(get_args(hint) if get_origin(hint) is not tuple else (hint,)) - {NoneType}
    kinds = kinds or {hint}
    lists = [each for each in kinds if get_origin(each) is tuple]
    choices = ", ".join(f"`{each}`" for each in setting.choices or ())
    if setting.number:
        return f"{choices}, or {setting.number}"
    if choices:
        return f"several of {choices}" if lists else f"one of {choices}"
    if lists:
        item = get_args(lists[0])[0]
        return f"several: {KINDS[item]}" if item in KINDS else "several: file or folder"
    if Path in kinds:
        return "file or folder"
    (kind,) = kinds
    return KINDS.get(kind, "NAME=VALUE, several")


def default_of(setting: Setting, default: object) -> str:
    """As the help tells it, and what the help leaves out: switches, and what must be given."""
    if default is MISSING:
        return "must be given"
    if isinstance(default, bool):
        return "yes" if default else "no"
    if setting.default:
        return setting.default
    shown = default_shown(default, setting)
    return f"`{shown}`" if shown else ""


def row(name: str, setting: Setting, hint: Any, default: object, changes: bool) -> str:
    """A line of the table."""
    own = name.rpartition(".")[2]
    cells = [
        f"`{name}`",
        f"`{option_of(own, setting)}`" if setting.flag != "" else NO_OPTION[name],
        type_shown(setting, hint),
        default_of(setting, default),
        "" if setting.range is None else str(setting.range),
        "yes" if changes else "",
        setting.help,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def made() -> str:
    """The whole page."""
    rows = list(declared(TrainConfig))
    lines = [INTRODUCTION]
    for group in Group:
        own = [each for each in rows if each[1].group == group]
        lines += [f"## {group}\n", HEAD, *(row(*each) for each in own), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
