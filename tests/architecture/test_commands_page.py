"""docs/reference/commands.md says what the help says, of every command."""

import click
from commands_page import PAGE, commands, made

from clipsearch.cli import COMMANDS, cli


def test_the_page_is_up_to_date() -> None:
    assert made() == PAGE.read_text(encoding="utf-8"), "run: make commands"


def test_no_command_is_left_out() -> None:
    found = {path for path, _ in commands(cli, click.Context(cli, info_name="clipsearch"))}
    assert {f"clipsearch {name}" for name in COMMANDS} <= found
    assert "clipsearch manifest check" in found
