"""How a setting is declared: once, with all that options, checks, help and resuming need.

>>> @dataclass(frozen=True)
... class Config:
...     epochs: int = setting(Group.BATCHES, 10, "Times that every image is seen.", least=1)
"""

import os
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from finetune.errors import UsageError
from finetune.ranges import Range

_KEY = "setting"


class Group(StrEnum):
    """Headings under which settings are shown, in this order."""

    MODEL = "Model and folders"
    BATCHES = "Batches and memory"
    OPTIMIZATION = "Loss and optimizer"
    FREEZING = "Frozen layers and adapters"
    AUGMENTATION = "Augmentation of the training data"
    EVALUATION = "Evaluation"
    TRACKERS = "Trackers"
    RUN = "Machine and checkpoints"
    CARD = "Model card"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known of a setting besides its type and its default.

    Attributes:
        group: Where it is shown.
        help: What it does, for people.
        flag: Its option, where that is not the field's name; empty where it has none of its own.
        formerly: An earlier name of its option, which is still taken; empty where it had none.
        metavar: What the help shows in place of a value; None shows the type.
        default: How the help tells a default that follows from something else.
        range: The numbers that it may have.
        choices: The words that it may be, each of its items where it has several.
        number: What a number means where it may be a word or a number: "a number of steps".
        repeated: Whether its option is given several times, as its items may hold commas.
        operational: Whether a resumed run may change it: it changes no weight but by rounding.
    """

    group: Group
    help: str
    flag: str | None = None
    formerly: str = ""
    metavar: str | None = None
    default: str = ""
    range: Range | None = None
    choices: Collection[str] | None = None
    number: str = ""
    repeated: bool = False
    operational: bool = False

    def check(self, option: str, value: object) -> None:
        """Raise UsageError for a value that is not among the choices or out of range.

        None, where a setting may be that, is always right. `option` names the setting.
        """
        if value is None:
            return
        words = ", ".join(self.choices or ())
        if isinstance(value, tuple):
            for item in value:
                if self.choices is not None and item not in self.choices:
                    raise UsageError(f"{option} must be of {words}, not {item}")
                if self.range is not None and isinstance(item, int | float):
                    self.range.check(option, item)
        elif self.number:
            if value not in (self.choices or ()) and not self._is_count(str(value)):
                raise UsageError(f"{option} must be {words} or {self.number}, not {value}")
        elif self.choices is not None:
            if value not in self.choices:
                raise UsageError(f"{option} must be one of {words}, not {value}")
        elif self.range is not None and isinstance(value, int | float):
            self.range.check(option, value)

    def _is_count(self, value: str) -> bool:
        return value.isdecimal() and (self.range is None or int(value) in self.range)


def setting(
    group: Group,
    default: object,
    help: str,
    *,
    otherwise: str = "",
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    range: Range | None = None,
    **more: Any,
) -> Any:
    """Declare a field of a dataclass as a setting.

    Args:
        group, help: See `Setting`.
        default: The field's; MISSING where a value must be given.
        otherwise: `Setting.default`.
        least, above, most, below: Bounds of `Setting.range`, in place of `range`.
        range: `Setting.range`.
        more: Other attributes of `Setting`.
    """
    if not {least, above, most, below} <= {None}:
        range = Range(least=least, above=above, most=most, below=below)
    declared = Setting(group=group, help=help, default=otherwise, range=range, **more)
    return field(default=default, metadata={_KEY: declared})


def settings_of(kind: type) -> dict[str, Setting]:
    """Return a dataclass's settings by field, group after group, each in the class's order."""
    found = {item.name: item.metadata[_KEY] for item in fields(kind) if _KEY in item.metadata}
    return dict(sorted(found.items(), key=lambda item: list(Group).index(item[1].group)))


def option_of(name: str, declared: Setting) -> str:
    """Return the option of a setting: "--batch-size"."""
    return declared.flag or "--" + name.replace("_", "-")


def default_shown(default: object, declared: Setting) -> str:
    """Return how the help tells the default; empty for a switch, and where there is none."""
    if declared.default or default is None or default is MISSING or isinstance(default, bool):
        return declared.default
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default) if isinstance(default, str | int | float) else ""


def plain(value: object) -> object:
    """Return a setting's value as JSON and YAML hold it: paths as text, tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return value


def describe(kind: type) -> None:
    """Add the settings to the docstring of their class, as attributes."""
    lines = [(kind.__doc__ or "").rstrip(), "", "    Attributes:"]
    defaults = {item.name: item.default for item in fields(kind)}
    for name, declared in settings_of(kind).items():
        shown = default_shown(defaults[name], declared)
        lines.append(f"        {name}: {declared.help}" + (f" Default: {shown}." if shown else ""))
    kind.__doc__ = "\n".join(lines)
