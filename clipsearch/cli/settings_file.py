"""Options from `clipsearch.toml`: what one would repeat in each command, written down once.

The file of the working folder counts, or else the nearest one above it. What stands at its top
(`index = "photos.index"`) is for every command that has such an option; a table is for one command
(`[query]`, `[manifest.check]`). The command line goes before the environment, and that before the
file. Paths at the top of the file are meant from its folder.
"""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from finetune.errors import UsageError
from finetune.near_names import near_name

SETTINGS_FILE = "clipsearch.toml"
LARGEST = 1 << 20
# For every command; of these the paths, which are meant from the file's folder.
FOR_ALL = ("index", "encoder", "images", "exclude", "ledger", "device", "language")
PATHS = frozenset({"index", "encoder", "images", "ledger"})


def find_settings_file(folder: Path) -> Path | None:
    """Return the settings file of `folder` or of the nearest folder above; None for none."""
    for place in (folder, *folder.parents):
        file = place / SETTINGS_FILE
        try:
            if file.is_file():
                return file
        except OSError:  # a folder above that may not be looked into
            return None
    return None


def read_settings(file: Path, commands: Collection[str]) -> dict[str, Any]:
    """Read a settings file, whose tables are named like `commands`.

    Raises UsageError where it cannot be read, or names no option or no command.
    """
    try:
        with file.open("rb") as content:
            settings = tomllib.loads(content.read(LARGEST).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{file}: cannot be read as TOML ({reason}); mend or remove it") from error
    for name, value in settings.items():
        if isinstance(value, dict):
            if name not in commands:
                near = near_name(name, commands)
                meant = f"; did you mean [{near}]?" if near else ""
                raise UsageError(f"{file}: [{name}] is no command{meant}")
            continue
        if name not in FOR_ALL:
            raise UsageError(
                f"{file}: {name} is no option of every command; there are {', '.join(FOR_ALL)}; put"
                f" others under the command: [query]"
            )
        if name in PATHS and isinstance(value, str):
            settings[name] = _from(file.parent, value)
    return settings


def defaults_of(
    command: click.Command, settings: Mapping[str, Any], file: Path, name: str
) -> dict[str, Any]:
    """Return the file's values for a command, by the names of its parameters, as click takes them.

    `settings` are those at the top of the file, with those of the command under `name`. Raises
    UsageError for an option that the command does not have.
    """
    own = settings.get(name, {})
    if not isinstance(own, dict):
        own = {}
    general = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    if isinstance(command, click.Group):
        below = {**general, **own}
        context = click.Context(command)
        return {
            each: defaults_of(found, below, file, each)
            for each in command.list_commands(context)
            if (found := command.get_command(context, each)) is not None
        }
    options = _options(command)
    for key in own:
        if key not in options:
            raise UsageError(f"{file}: [{name}] has {key}, but clipsearch {name} has no --{key}")
    return {
        str(options[key].name): _repeated(value) if options[key].multiple else value
        for key, value in {**general, **own}.items()
        if key in options
    }


def name_variables(command: click.Command) -> None:
    """Let the environment name what every command has: CLIPSEARCH_INDEX, CLIPSEARCH_ENCODER …"""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            name_variables(below)
    for option in command.params:
        names = {written.lstrip("-") for written in option.opts}.intersection(FOR_ALL)
        # What deploy calls --index is a Vespa's address, and no index that commands ask.
        if isinstance(option, click.Option) and names and option.metavar != "URL":
            _name_variable(option, f"CLIPSEARCH_{names.pop().upper()}")


def _name_variable(option: click.Option, variable: str) -> None:
    """Let the environment name an option's value; the help says so, and that the file may too."""
    if option.envvar is None:  # else named before: a command is one object for the whole process
        option.envvar = variable
        option.help = f"{option.help}  [env var: {variable}, or {SETTINGS_FILE}]"


def is_typed(parameter: str) -> bool:
    """Return whether a parameter of the running command stands on the command line itself."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return option by each of its names, without its dashes."""
    return {
        written.lstrip("-"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for written in parameter.opts
    }


def _repeated(value: Any) -> list[Any]:
    """Return the values of an option that may be repeated: a list, or one value alone."""
    return value if isinstance(value, list) else [value]


def _from(folder: Path, value: str) -> str:
    """Return a path from the file's folder; an address, and a hub's id that is no folder, stay."""
    if "://" in value:
        return value
    path = folder / Path(value).expanduser()
    is_id = value.count("/") == 1 and not value.startswith((".", "/", "~"))
    return value if is_id and not path.exists() and not path.parent.exists() else str(path)
