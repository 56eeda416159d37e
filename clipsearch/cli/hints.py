"""What click's own complaints about a command line leave out: the mend."""

import re
from pathlib import Path

import click
from click.core import ParameterSource

from clipsearch.cli.settings_file import SETTINGS_FILE, find_settings_file

_NUMBERS = (click.INT, click.FLOAT)


def with_mend(error: click.ClickException) -> click.ClickException:
    """Return the error, its sentence completed where we know what was probably meant.

    Rests on click's English words; where these change, its sentence is shown as it is.
    """
    sentence = None
    if isinstance(error, click.NoSuchOption):
        sentence = _about_option(error)
    elif isinstance(error, click.MissingParameter):
        sentence = _about_missing(error)
    elif isinstance(error, click.BadParameter):
        sentence = _about_number(error) or _about_path(error)
    elif error.message.startswith("Got unexpected extra argument"):
        sentence = f"{error.message}; {_about_extra(error)}"
    if sentence is None or not isinstance(error, click.UsageError):
        return error
    return click.UsageError(sentence + _from_file(error), error.ctx)


def _from_file(error: click.UsageError) -> str:
    """Return where the value stands that is wrong, if in the settings file."""
    parameter = error.param if isinstance(error, click.BadParameter) else None
    if error.ctx is None or parameter is None or parameter.name is None:
        return ""
    source = error.ctx.get_parameter_source(parameter.name)
    file = find_settings_file(Path.cwd()) if source is ParameterSource.DEFAULT_MAP else None
    return f" (in {file})" if file is not None else ""


def _about_option(error: click.NoSuchOption) -> str | None:
    if error.option_name.startswith("--"):
        return None
    command = "clipsearch query" if error.ctx is None else error.ctx.command_path
    return (
        f"{error.format_message()} What begins with - and is no option stands after --, behind all"
        f" options: {command} … -- -cat"
    )


def _about_extra(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None and context.info_name == "feed":
        return "each MANIFEST is a data set of the index: feed one after the other"
    return 'what has a blank in it is put in quotes: "two dogs"'


def _about_missing(error: click.MissingParameter) -> str | None:
    if error.param is None or error.param.name != "index":
        return None
    return (
        f"which index? Name it with --index photos.index, or once for all commands: in"
        f' {SETTINGS_FILE} (index = "photos.index") or as CLIPSEARCH_INDEX'
    )


def _about_path(error: click.BadParameter) -> str | None:
    """Return a sentence as ours are, where click has looked at a path."""
    found = re.fullmatch(r"(?:Path|File|Directory) '(.*)' (.*)\.", error.message, re.DOTALL)
    return None if found is None else f"{found.group(1)}: {found.group(2)}"


def _about_number(error: click.BadParameter) -> str | None:
    kind = None if error.param is None else error.param.type
    given = re.match(r"'?(.*?)'? is not (?:a valid|in the range)", error.message)
    if given is None or error.param is None:
        return None
    if not isinstance(kind, click.IntRange | click.FloatRange) and kind not in _NUMBERS:
        return None
    what = "a whole number" if isinstance(kind, type(click.INT)) else "a number"
    name = error.param.get_error_hint(error.ctx) if error.ctx is not None else error.param.name
    shown = (name or "").replace("'", "")
    return f"{shown} must be {what}{_range(kind)}, not {given.group(1)}"


def _range(kind: object) -> str:
    """Return " from 1 to 10", " of at least 1" … as the range says; "" where there is none."""
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    low, high = kind.min, kind.max
    if low is not None and high is not None and not (kind.min_open or kind.max_open):
        return f" from {low:,} to {high:,}"
    parts = []
    if low is not None:
        parts.append(f"above {low:,}" if kind.min_open else f"of at least {low:,}")
    if high is not None:
        parts.append(f"below {high:,}" if kind.max_open else f"of at most {high:,}")
    return f" {' and '.join(parts)}" if parts else ""
