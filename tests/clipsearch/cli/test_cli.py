"""Every command has help, exits as it should, and costs nothing until it is called."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from clipsearch import cli
from clipsearch.cli import COMMANDS
from clipsearch.version import __version__
from finetune.errors import EngineError, UsageError

HEAVY = {
    "torch", "transformers", "lancedb", "pandas", "onnxruntime", "pyarrow", "matplotlib",
    "fastapi", "uvicorn",
}  # fmt: skip


def clipsearch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipsearch", *arguments], capture_output=True, text=True, timeout=60
    )


def walk(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, f"{name} is listed, but there is no such command"
            yield from walk(below, *path, name)


def test_every_command_and_option_has_help() -> None:
    walked = dict(walk(cli.cli))
    assert {path[0] for path in walked if path} == set(COMMANDS)
    for path, command in walked.items():
        name = " ".join(["clipsearch", *path])
        assert command.help, f"{name} has no help"
        assert not command.help.startswith(" "), f"{name}: its help begins with a blank"
        assert command.get_short_help_str(), f"{name} has no short help"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, f"{name}: {parameter.opts[0]} has no help"


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, summary in COMMANDS.items():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        assert summary == command.get_short_help_str(limit=200), f"COMMANDS[{name!r}] is old"


def test_every_help_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for path, _ in walk(cli.cli):
        assert cli._run([*path, "--help"], debug=False) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith("Usage: clipsearch")
        assert shown.err == ""


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from clipsearch.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        heavy = HEAVY if arguments != ["--help"] else HEAVY | {"numpy", "rich", "PIL"}
        assert not heavy & set(done.stderr.split()), arguments


def test_the_module_runs_as_a_program() -> None:
    done = clipsearch("--version")
    assert (done.returncode, done.stdout) == (0, f"clipsearch, version {__version__}\n")
    done = clipsearch("-h")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sing"], "No such command 'sing'"),
        (["--sing"], "No such option '--sing'"),
        (["query", "x", "--index", "i", "--sing"], "No such option '--sing'"),
        (["query", "x"], "which index? Name it with --index"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("CLIPSEARCH_INDEX", raising=False)
    assert cli._run(arguments, debug=False) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_an_unknown_command_in_a_process() -> None:
    done = clipsearch("sing")
    assert done.returncode == 2
    assert "No such command" in done.stderr


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the command `query` raises instead of running."""
    errors: list[BaseException] = []

    @click.command()
    def query() -> int:
        """Raise."""
        if errors:
            raise errors[0]
        return 3

    monkeypatch.setattr("clipsearch.cli.query.query", query)
    return errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (EngineError("the engine is gone; start it"), 1, "Error: the engine is gone; start it\n"),
        (UsageError("k is 0, must be 1"), 2, "Error: k is 0, must be 1\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.png"),
            1,
            "Error: out/a.png: the disk is full; free some space and run the same command again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            1,
            "Error: out: Permission denied (--debug shows the traceback)\n",
        ),
        (ValueError("odd"), 1, "Error: ValueError: odd (--debug shows the traceback)\n"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(
    raising: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    raising.append(error)
    assert cli._run(["query"], debug=False) == code
    assert capsys.readouterr().err.lstrip() == said  # click leaves the line with ^C
    if code != 130:
        assert cli._run(["--debug", "query"], debug=True) == code
        assert "Traceback" in capsys.readouterr().err


def test_the_code_of_a_command_is_that_of_the_process(raising: list[BaseException]) -> None:
    assert cli._run(["query"], debug=False) == 3


def test_ctrl_c_while_it_is_being_imported_leaves_no_traceback() -> None:
    script = """
import os, signal, sys
class Stopping:
    def find_spec(self, name, path=None, target=None):
        if name == "clipsearch.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stopping())
from clipsearch.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    # A shell's 130.
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_stopped_process_exits_with_130() -> None:
    script = f"""
import os, signal, click
import clipsearch.cli.query
from clipsearch.cli import main
@click.command()
def query():
    os.kill(os.getpid(), {int(signal.SIGTERM)})
    import time; time.sleep(30)
clipsearch.cli.query.query = query
main(["query"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert (done.returncode, done.stderr.strip()) == (130, "Stopped.")
