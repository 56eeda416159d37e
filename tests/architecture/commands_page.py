"""Write docs/reference/commands.md: the help of every command, from the commands themselves.

python tests/architecture/commands_page.py
"""

from collections.abc import Iterator
from pathlib import Path

import click

from clipsearch.cli import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md"
WIDTH = 100
INTRODUCTION = """\
# Commands

What `clipsearch COMMAND --help` says. Forms of output, `clipsearch.toml`, exit codes and
completion stand in [the command line](../command-line.md); the settings of `finetune` with their
ranges in [settings](../settings.md). This page is made by `make commands`.
"""


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """The path of each command, with those of groups after their group."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(
            command, info_name=name, parent=context,
            terminal_width=WIDTH, max_content_width=WIDTH, color=False,
        )  # fmt: skip
        yield own.command_path, own
        if isinstance(command, click.Group):
            yield from commands(command, own)


def made() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for path, context in commands(cli, click.Context(cli, info_name="clipsearch")):
        text = context.command.get_help(context)
        lines = "\n".join(line.rstrip() for line in text.splitlines())
        parts.append(f"## {path}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(made(), encoding="utf-8")
