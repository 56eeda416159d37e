"""`--quiet`, `--log`, and what is missing."""

import re
from pathlib import Path

import click
import pytest

from clipsearch import cli
from clipsearch.cli.messages import add_message_options, messages
from clipsearch.cli.missing_packages import missing_package
from finetune.console import Progress
from finetune.errors import EngineError


@click.command()
@click.argument("how")
def work(how: str) -> int:
    """Do as a command does: a bar, a note, a result, perhaps an error."""
    with Progress("work", 2) as progress:
        progress.advance(2)
    click.echo("Note: said", err=True)
    click.echo("result")
    if how == "fails":
        raise EngineError("broken; mend it")
    if how == "lacks":
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    return 0


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    add_message_options(work)
    add_message_options(work)  # once is enough
    monkeypatch.setitem(cli.COMMANDS, "work", "Work.")
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, context, name: work)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = cli._run(["work", *arguments], debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_command


def test_quiet_leaves_results_and_errors(run) -> None:
    code, out, err = run("well")
    assert (code, out) == (0, "result\n") and "work  2/2" in err and "Note: said" in err
    assert run("well", "--quiet") == (0, "result\n", "")
    assert run("fails", "--quiet") == (1, "result\n", "Error: broken; mend it\n")


def test_a_log_is_appended_to_with_the_time(run, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    code, _, err = run("well", "--log", str(log))
    assert code == 0 and "Note: said" in err
    assert run("well", "--quiet", "--log", str(log)) == (0, "result\n", "")
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", line) for line in lines)
    assert lines[1].endswith(" Note: said") and lines[3].endswith(" Note: said")
    code, _, err = run("well", "--log", str(tmp_path / "no" / "folder.log"))
    assert code == 2 and "cannot be written" in err


def test_of_a_bar_that_was_drawn_anew_the_log_has_the_last(tmp_path: Path, capsys) -> None:
    with messages(quiet=False, log=tmp_path / "log"):
        click.echo("\r 10 %\r 90 %", err=True, nl=False)
        click.echo("\r100 %", err=True)
        click.echo("no end", err=True, nl=False)
    said = [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert said == ["100 %", "no end"]
    assert capsys.readouterr().err == "\r 10 %\r 90 %\r100 %\nno end"


def test_a_missing_package_is_one_sentence_in_every_command(run) -> None:
    code, _, err = run("lacks", "--quiet")
    assert code == 1 and err.count("\n") == 1
    assert (
        "this needs torch, which is not installed; install it with: pip install '.[finetune]'"
        in err
    )
    assert "install clipsearch again" in missing_package(ModuleNotFoundError(name="numpy"))


def test_every_command_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    context = click.Context(cli.cli)
    for name in cli.COMMANDS:
        command = cli.cli.get_command(context, name)
        below = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in below:
            options = {written for parameter in each.params for written in parameter.opts}
            assert {"--quiet", "--log"} <= options, (name, each.name)
