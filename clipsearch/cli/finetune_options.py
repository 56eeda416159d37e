"""The options of `clipsearch finetune`, made from the settings of a training run."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import click

from clipsearch.cli.groups import GroupedOption
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.mapping import NONE
from finetune.config.setting import Group, Setting, default_shown, option_of, settings_of
from finetune.config.settings import TrainConfig

Command = TypeVar("Command", bound=Callable[..., Any])


class OrNone(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """What the type takes, or "none"."""

    def __init__(self, wanted: click.ParamType) -> None:  # type: ignore[type-arg]  # as above
        self._type = wanted
        self.name = wanted.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a value of the type, and the text "none" as it is."""
        return value if value == NONE else self._type.convert(value, param, ctx)


def training_options(command: Command) -> Command:
    """Add an option for each setting of a training run, by group.

    One that is not given is None, or empty where it may be given several times, so that a recipe's
    value can stand; the help tells the setting's own default. "none" takes a recipe's value away
    where the setting may be None.
    """
    found = sorted(_declared(TrainConfig), key=lambda each: list(Group).index(each[1].group))
    for flag, declared, hint, default in reversed(found):
        command = _option(flag, declared, hint, default)(command)
    return command


def parameter(flag: str) -> str:
    """Return the name of an option's value in the command's arguments."""
    return flag[2:].replace("-", "_")


# The settings of captions, by the names of their options' values.
CAPTION_OPTIONS = {
    parameter(option_of(name, declared)): name
    for name, declared in settings_of(CaptionAugmentConfig).items()
}


def _declared(kind: type) -> Iterator[tuple[str, Setting, Any, object]]:
    """Yield option, setting, type and default of every field that has an option."""
    hints, known = get_type_hints(kind), settings_of(kind)
    for item in fields(kind):
        declared, hint = known[item.name], hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint) and settings_of(hint):
            yield from _declared(hint)
        elif declared.flag != "":
            yield option_of(item.name, declared), declared, hint, item.default


def _option(
    flag: str, declared: Setting, hint: Any, default: object
) -> Callable[[Command], Command]:
    shown = default_shown(default, declared)
    return click.option(
        f"{flag}/--no-{flag[2:]}" if hint is bool else flag,
        parameter(flag),
        cls=GroupedOption,
        group=declared.group,
        type=_type(declared, hint),
        default=None,
        metavar=declared.metavar,
        multiple=declared.repeated,
        help=declared.help + (f"  [default: {shown}]" if shown else ""),
    )


def _type(declared: Setting, hint: Any) -> click.ParamType | None:  # type: ignore[type-arg]
    kinds = set(get_args(hint) or (hint,)) - {NoneType}
    if kinds == {bool}:
        return None  # a switch
    for kind in (int, float):
        if kinds == {kind}:
            wanted = click.types.convert_type(kind)
            return OrNone(wanted) if NoneType in get_args(hint) else wanted
    if kinds == {str} and declared.choices is not None:
        return click.Choice(tuple(declared.choices))
    return click.STRING
