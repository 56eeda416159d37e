"""Options that several commands share, so that each means the same everywhere."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from finetune.errors import UsageError
from finetune.towers import DEVICE_FORMS, is_device

_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{2,5}/?", re.ASCII)
Command = TypeVar("Command", bound=Callable[..., Any])


class Utf8(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Text in UTF-8, as from standard input; a path may hold other bytes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text itself.

        Raises UsageError where the shell gave bytes that are no UTF-8.
        """
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            name = "the argument" if param is None else param.get_error_hint(ctx)
            raise UsageError(f"{name}: {shown!r} is not UTF-8; write it in UTF-8") from error
        return text


UTF8 = Utf8()


class Device(click.ParamType):  # type: ignore[type-arg]  # as above
    """Where towers run, as training and encoding both name it."""

    name = DEVICE_FORMS

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the device's name; a bad parameter where there is none of that form."""
        if not is_device(str(value)):
            self.fail(f"{value!r} is none of {DEVICE_FORMS.replace('|', ', ')}", param, ctx)
        return value


class NamedPath(click.Path):
    """A path that is never empty: "" (a shell variable that is not set) would be this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises UsageError where it is empty."""
        if value == "":
            name = "the path" if param is None else param.get_error_hint(ctx)
            raise UsageError(
                f"{name} is empty (a shell variable that is not set, perhaps); name a file or"
                " folder, as . for this one"
            )
        return super().convert(value, param, ctx)


class IndexTarget(NamedPath):
    """A folder or an address; what looks like an address without http:// is taken for neither."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the target. Raises UsageError where http:// was left out."""
        if _HOST_AND_PORT.fullmatch(str(value)) and not Path(str(value)).exists():
            raise UsageError(f"--index {value}: no such folder; for a Vespa write http://{value}")
        return super().convert(value, param, ctx)


def index_option(command: Command) -> Command:
    """Add `--index TARGET`: a path is the embedded engine, an http(s) address is Vespa."""
    return _index_option(required=True)(command)


def optional_index_option(command: Command) -> Command:
    """Add `--index TARGET`, where a command can do without."""
    return _index_option(required=False)(command)


def _index_option(*, required: bool) -> Callable[[Command], Command]:
    return click.option(
        "--index",
        "index",
        metavar="TARGET",
        type=IndexTarget(),
        required=required,
        help="The index: a folder (embedded engine) or an http(s) address (Vespa).",
    )


def json_option(command: Command) -> Command:
    """Add `--json`: the answer as JSON on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)


def images_option(command: Command) -> Command:
    """Add `--images FOLDER`: where a manifest's relative paths are looked for last."""
    return click.option(
        "--images",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        help="Where relative paths of images are also looked for, after the manifest's folder"
        " and its images/; a feed remembers it with the index.",
    )(command)


def moved_images_option(command: Command) -> Command:
    """Add `--images FOLDER`: where the images of an index lie now."""
    return click.option(
        "--images",
        metavar="FOLDER",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Folder of the pictures, if they have moved since the feed.",
    )(command)


def limit_option(what: str, default: int, most: int | None = None) -> Callable[[Command], Command]:
    """Return what adds `-k, --limit N`: how many of `what` are shown."""
    return click.option(
        "-k",
        "--limit",
        "k",
        metavar="N",
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        help=what,
    )


def yes_option(what: str) -> Callable[[Command], Command]:
    """Return what adds `-y, --yes`, of which `what` says what nobody is asked before."""
    return click.option("-y", "--yes", is_flag=True, help=what)


def port_option(command: Command) -> Command:
    """Add `--port N`: where the service listens."""
    return click.option(
        "--port",
        metavar="N",
        type=click.IntRange(0, 65535),
        default=8000,
        show_default=True,
        help="Port of the page and the API; 0 takes a free one.",
    )(command)


def column_options(command: Command) -> Command:
    """Add the options that say which columns of a table are which."""
    for name, what in (
        ("--id-column", "The table's column of ids.  [default: id]"),
        ("--image-column", "The column of image paths, where its name does not say so."),
    ):
        command = click.option(name, type=UTF8, metavar="COLUMN", help=what)(command)
    return click.option(
        "--caption-column",
        "caption_columns",
        type=UTF8,
        metavar="COLUMN",
        multiple=True,
        help="A column of captions, where its name does not say so; may be repeated.",
    )(command)


def added_columns_options(*, remembered: bool) -> Callable[[Command], Command]:
    """Return what adds the options of columns that images bring themselves, as a feed takes them.

    Args:
        remembered: Whether the command's index remembers them.
    """
    last = "as at its last feed, or " if remembered else ""
    exif = click.option(
        "--exif/--no-exif",
        default=None,
        help="Read taken (a date), camera, latitude and longitude from what the camera wrote."
        f" [default: {last}not]",
    )
    tags = click.option(
        "--folder-tags",
        type=click.Choice(["path", "levels", "none"]),
        help="Of a folder: the folder below it that a picture lies in as a tag (folder), with one"
        f" more a level (folder_1, folder_2 …), or none. [default: {last}path]",
    )
    return lambda command: tags(exif(command))


def exclude_option(*, remembered: bool) -> Callable[[Command], Command]:
    """Return what adds `--exclude PATTERN` and `--no-exclude`: patterns, as of `.gitignore`.

    Args:
        remembered: Whether the command's index remembers them.
    """
    of_whom = "the index remembers" if remembered else "the settings file or environment says"
    nothing = click.option(
        "--no-exclude", is_flag=True, help=f"Leave nothing out, whatever --exclude {of_whom}."
    )
    patterns = click.option(
        "--exclude",
        type=UTF8,
        metavar="PATTERN",
        multiple=True,
        help="Leave out pictures and folders by their paths, as .gitignore does: '*.svg', drafts/,"
        " /2019/raw; may be repeated."
        + (" The index remembers the patterns." if remembered else ""),
    )
    return lambda command: patterns(nothing(command))


def ledger_option(command: Command) -> Command:
    """Add `--ledger FILE`: which documents the index has acknowledged."""
    return click.option(
        "--ledger",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="What the index has acknowledged; in the index's folder, or for Vespa in your"
        " folder for state, unless given.",
    )(command)


def moved_encoder_option(command: Command) -> Command:
    """Add `--encoder FOLDER`: where the encoder of an index lies now."""
    return click.option(
        "--encoder",
        metavar="FOLDER",
        type=NamedPath(),
        help="The encoder's folder, if it has moved since the feed.",
    )(command)


def index_of_encoder_option(command: Command) -> Command:
    """Add `--index TARGET` of what looks at pictures: it knows the encoder, and pictures by id."""
    return click.option(
        "--index",
        metavar="TARGET",
        type=NamedPath(),
        help="The index: it knows the encoder, and pictures by id.",
    )(command)


def templates_option(command: Command) -> Command:
    """Add `--template TEXT`, which may be given several times."""
    return click.option(
        "--template",
        "templates",
        type=UTF8,
        metavar="TEXT",
        multiple=True,
        help='A class prompt, such as "An aerial photograph of {category}"; several are averaged.'
        ' [default: "a photo of a {category}"]',
    )(command)


def device_option(command: Command) -> Command:
    """Add `--device`: where the encoder runs."""
    return click.option(
        "--device",
        metavar=DEVICE_FORMS,
        type=Device(),
        default="cpu",
        show_default=True,
        help="Where the encoder runs; auto is a GPU where torch finds one.",
    )(command)
