"""docs/reference/commands.md says what the help says, of every command."""

import subprocess
import sys
from pathlib import Path

import click
from commands_page import PAGE, commands

from clipsearch.cli import COMMANDS, cli


def test_the_page_is_up_to_date() -> None:
    # In a process of its own: click remembers the help option of a command that another test ran.
    program = "import sys; from commands_page import made; sys.stdout.write(made())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, check=True
    )
    assert done.stdout.decode() == PAGE.read_text(encoding="utf-8"), "run: make commands"


def test_no_command_is_left_out() -> None:
    found = {path for path, _ in commands(cli, click.Context(cli, info_name="clipsearch"))}
    assert {f"clipsearch {name}" for name in COMMANDS} <= found
    assert "clipsearch manifest check" in found
