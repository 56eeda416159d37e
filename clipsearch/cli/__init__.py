"""The command line: a file a command, each loaded only when it is called.

A command's module imports at its top what is light, and heavy rooms inside the command, so that
`clipsearch --help` imports neither torch, NumPy nor pandas.
"""

import errno
import importlib
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import click

from clipsearch.cli.messages import add_message_options
from clipsearch.cli.missing_packages import missing_package
from clipsearch.cli.settings_file import (
    defaults_of,
    find_settings_file,
    name_variables,
    read_settings,
)
from clipsearch.cli.stopping import end_soon_after_signals
from clipsearch.version import __version__
from finetune.errors import ClipsearchError
from finetune.memory import is_too_little
from finetune.near_names import near_name
from finetune.text.masking import masked
from finetune.training.interruption import ToldInterrupt

EXIT_FAILED = 1
EXIT_SOME_REJECTED = 3
EXIT_INTERRUPTED = 130
_TOO_LITTLE_MEMORY = (
    "too little memory; close other programs, or take less at once (--batch-size, --workers, -k),"
    " and run the same command again"
)

# What `clipsearch --help` says of each command: the first sentence of its own help, written down
# here because importing ten commands takes ten times as long as printing this. The command is the
# function of that name in the module of that name in this room.
COMMANDS = {
    "finetune": "Train an encoder on your own captions.",
    "export": "Turn MODEL into an encoder folder without training it.",
    "encoder": "Fetch ready encoders from the Hugging Face hub, and look into encoder folders.",
    "deploy": "Deploy the application package to Vespa, and make the index that `feed` then fills.",
    "feed": "Write the captioned images of MANIFEST into an index.",
    "query": "Search by TEXT, by pictures, or by a weighted mix.",
    "similar": "Show the pictures nearest to one of the index, which is itself left out.",
    "list": "List the pictures of an index, or those that pass the filters, page by page.",
    "duplicates": "Show which pictures of an index are nearly the same, in groups.",
    "locate": "Show where in a picture TEXT is: how strongly each part of it answers.",
    "classify": "Say which of several labels a picture has: how likely each is.",
    "describe": "Show the captions of the index that lie nearest to a picture.",
    "serve": "Answer over HTTP: a page for people, an API for programs.",
    "evaluate": "Measure how well ENCODER finds the pictures of MANIFEST by their captions.",
    "calibrate": "Learn how an index best joins words and vector, and keep it if surely better.",
    "get": "Show what an index holds of documents.",
    "update": "Change captions, tags and numbers of documents by hand; embeddings stay.",
    "copy": "Copy an index into a new one of either engine, or into Parquet; nothing is encoded.",
    "delete": "Remove documents from an index; the pictures themselves stay.",
    "status": "Show what an index holds, which encoder filled it, and how much disk it takes.",
    "doctor": "Say what works here, what does not, and the mend.",
    "manifest": "Look into a manifest: the list of images and captions.",
    "demo": "Walk the whole road on made-up pictures, in about 90 seconds.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the road, not of the alphabet."""
        return [*COMMANDS]  # the name of the type is a module's here, once `list` was imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        add_message_options(command)
        name_variables(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, and give it what clipsearch.toml says."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = near_name(name, COMMANDS)
            meant = f"; did you mean {near}?" if near else ""
            raise click.UsageError(f"No such command {name!r}{meant}", ctx)
        found, command, rest = super().resolve_command(ctx, args)
        file = find_settings_file(Path.cwd())
        if file is not None and command is not None and found is not None:
            ctx.default_map = {
                found: defaults_of(command, read_settings(file, COMMANDS), file, found)
            }
        return found, command, rest


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="clipsearch")
@click.option("--debug", is_flag=True, envvar="CLIPSEARCH_DEBUG", help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Search your own images by words, by image and by both.

    \b
    The road:
      clipsearch feed ~/Pictures --index pictures.index
      clipsearch query "sunset over a lake" --index pictures.index
    or, with captions of your own:
      clipsearch manifest check photos.csv
      clipsearch finetune photos.csv --model openai/clip-vit-base-patch32 --out encoder
      clipsearch feed photos.csv --encoder encoder --index photos.index
      clipsearch query "two dogs on a beach" --index photos.index

    What every command would repeat may stand in clipsearch.toml, in this folder or one above it
    (index = "photos.index"), or in the environment (CLIPSEARCH_INDEX, CLIPSEARCH_ENCODER,
    CLIPSEARCH_IMAGES …). Completion:
    eval "$(_CLIPSEARCH_COMPLETE=bash_source clipsearch)", or zsh_source, or fish_source.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0, 1, 2, 3 or 130 (see docs/command-line.md)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("CLIPSEARCH_DEBUG"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    end_soon_after_signals(EXIT_INTERRUPTED)
    sys.exit(_run(arguments, debug))


def _run(arguments: list[str], debug: bool) -> int:
    if "_CLIPSEARCH_COMPLETE" in os.environ:
        from clipsearch.cli.bash_completion import take_over_bash  # light path: once a <TAB>

        take_over_bash()
    try:
        result: Any = cli.main(arguments, prog_name="clipsearch", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        if not isinstance(stop.__cause__ or stop, ToldInterrupt):  # click wraps it
            click.echo("Stopped.", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        from clipsearch.cli.hints import with_mend  # light path: only where there is an error

        shown = io.StringIO()
        with_mend(error).show(shown)
        click.echo(masked(shown.getvalue()), err=True, nl=False)
        return error.exit_code
    except ClipsearchError as error:
        _tell(str(error), debug)
        return error.exit_code
    except BrokenPipeError:
        # The reader (head, less) has gone; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _tell(_sentence(error), debug)
        return 1
    except ModuleNotFoundError as error:
        _tell(missing_package(error), debug)
        return EXIT_FAILED
    except Exception as error:
        what = f"{type(error).__name__}: {error} (--debug shows the traceback)"
        _tell(_TOO_LITTLE_MEMORY if is_too_little(error) else what, debug)
        return 1
    return result if isinstance(result, int) else 0


def _tell(sentence: str, debug: bool) -> None:
    """Print the error that is being handled, without secrets."""
    if debug:
        click.echo(masked(traceback.format_exc()), err=True, nl=False)
    click.echo(masked(f"Error: {sentence}"), err=True)


def _sentence(error: OSError) -> str:
    """Return what the system refused, and where it says so."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOMEM:
        return f"{where}{_TOO_LITTLE_MEMORY}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space and run the same command again"
    return f"{where}{error.strerror or error} (--debug shows the traceback)"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Treat SIGTERM like Ctrl-C, so that a stopped service keeps what was acknowledged."""
    raise KeyboardInterrupt
