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
    for name, declared, hint, default in reversed(found):
        command = _option(name, declared, hint, default)(command)
        if declared.formerly:
            command = _earlier_option(name, declared, hint)(command)
    return command


def parameter(flag: str) -> str:
    """Return the name of an option's value in the command's arguments."""
    return flag[2:].replace("-", "_")


# The settings of captions, by the names of their options' values.
CAPTION_OPTIONS = {
    parameter(option_of(name, declared)): name
    for name, declared in settings_of(CaptionAugmentConfig).items()
}


# Options that other commands have by a short name too.
_SHORT = {"--yes": ("-y",)}
# What stands for a value of these types.
_METAVARS: dict[type, str] = {int: "N", float: "NUMBER", str: "TEXT"}
# Before the name of a setting: its option by an earlier name.
_EARLIER = "earlier_"


def settings_given(options: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what was given, by field, without what was not.

    `tell` takes a sentence for each option that was given by an earlier name.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in [name for name in given if name.startswith(_EARLIER)]:
        field = name.removeprefix(_EARLIER)
        declared = settings_of(TrainConfig)[field]
        tell(f"{declared.formerly} is called {declared.flag} now.")
        given.setdefault(field, given.pop(name))
    return given


def _declared(kind: type) -> Iterator[tuple[str, Setting, Any, object]]:
    """Yield the name of the option's value, setting, type and default of every field with one.

    In the fields of a run it is the field's; in those of captions the option's own.
    """
    hints, known = get_type_hints(kind), settings_of(kind)
    for item in fields(kind):
        declared, hint = known[item.name], hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint) and settings_of(hint):
            yield from _declared(hint)
        elif declared.flag != "":
            name = item.name if kind is TrainConfig else parameter(option_of(item.name, declared))
            yield name, declared, hint, item.default


def _option(
    name: str, declared: Setting, hint: Any, default: object
) -> Callable[[Command], Command]:
    flag = option_of(name, declared)
    shown = default_shown(default, declared)
    return click.option(
        *_SHORT.get(flag, ()),
        f"{flag}/--no-{flag[2:]}" if hint is bool else flag,
        name,
        cls=GroupedOption,
        group=declared.group,
        type=_type(declared, hint),
        default=None,
        metavar=_metavar(declared, hint),
        multiple=declared.repeated,
        help=declared.help + (f"  [default: {shown}]" if shown else ""),
    )


def _earlier_option(name: str, declared: Setting, hint: Any) -> Callable[[Command], Command]:
    return click.option(
        declared.formerly,
        _EARLIER + name,
        type=_type(declared, hint),
        is_flag=hint is bool,
        default=None,
        multiple=declared.repeated,
        hidden=True,
        help=f"An earlier name of {declared.flag}.",
    )


def _metavar(declared: Setting, hint: Any) -> str | None:
    """Return what stands for the value in the help; None where it is a choice or a switch."""
    if declared.metavar is not None or declared.choices is not None:
        return declared.metavar
    kinds = set(get_args(hint) or (hint,)) - {NoneType}
    return _METAVARS.get(kinds.pop()) if len(kinds) == 1 else None


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
