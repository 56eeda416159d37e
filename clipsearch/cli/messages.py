"""`--quiet` and `--log FILE`, which every command has: what becomes of all that is said on the way.

Results go to standard output and stay; progress, notes and warnings go to standard error. An error
is printed after the command has ended, and always.
"""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import click

from finetune.console import printable
from finetune.errors import UsageError
from finetune.text.masking import masked


def note(text: str) -> None:
    """Tell a user something beside the results, on standard error: `--quiet` leaves it out."""
    click.echo(f"Note: {printable(text)}", err=True)


class _Said(io.TextIOBase):
    """Standard error, passed on or not, and written into a file line by line."""

    def __init__(self, shown: TextIO | None, log: TextIO | None) -> None:
        self._shown, self._log = shown, log
        self._line = ""

    def write(self, text: str) -> int:
        if self._shown is not None:
            self._shown.write(text)
        if self._log is not None:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._note(line)
        return len(text)

    def flush(self) -> None:
        if self._shown is not None:
            self._shown.flush()

    def isatty(self) -> bool:
        return self._shown is not None and self._shown.isatty()

    def end(self) -> None:
        """Write what has no end of line yet."""
        if self._log is not None and self._line:
            self._note(self._line)

    def _note(self, line: str) -> None:
        # Of a bar that was drawn again and again, the last.
        last = line.rpartition("\r")[2].rstrip()
        if last and self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {masked(last)}\n")
            self._log.flush()


class _NobodyThere:
    """Standard input of `--quiet`: a question would not be seen, so that nobody can be asked."""

    def __init__(self, stdin: TextIO) -> None:
        self._stdin = stdin

    @property
    def buffer(self) -> Any:
        return self._stdin.buffer

    def isatty(self) -> bool:
        return False

    def readline(self, size: int = -1) -> str:
        return ""


@contextlib.contextmanager
def messages(*, quiet: bool, log: Path | None) -> Iterator[None]:
    """Leave out what is said on standard error, or write it into a file too, while the block runs.

    Raises UsageError where the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = None
        if log is not None:
            try:
                file = stack.enter_context(log.open("a", encoding="utf-8", errors="replace"))
            except OSError as error:
                raise UsageError(
                    f"--log {log}: cannot be written ({error.strerror}); name another file"
                ) from error
        said = _Said(None if quiet else sys.stderr, file)
        stack.callback(said.end)
        before = sys.stdin
        if quiet and before is not None and before.isatty():
            stack.callback(setattr, sys, "stdin", before)
            sys.stdin = cast(TextIO, _NobodyThere(before))
        stack.enter_context(contextlib.redirect_stderr(said))
        yield


def add_message_options(command: click.Command) -> None:
    """Add `--quiet` and `--log` to a command, and to those below it; once."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            add_message_options(below)
        return
    known = {written for parameter in command.params for written in parameter.opts}
    if "--log" in known:
        return
    command.params += [
        click.Option(
            ["--quiet"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_keep,
            help="Say nothing but results and errors; nobody is asked, so add --yes where needed.",
        ),
        click.Option(
            ["--log"],
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_begin,
            help="Append all that is said on the way to this file, with the time.",
        ),
    ]


def _keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta["clipsearch.quiet"] = value


def _begin(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    quiet = bool(context.meta.get("clipsearch.quiet"))
    if (quiet or value is not None) and not context.resilient_parsing:
        context.with_resource(messages(quiet=quiet, log=value))
