"""One vocabulary in the help of all commands: what stands for a value, and options that repeat."""

import re
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest

from clipsearch.cli import COMMANDS, cli

# Of click's own words for a type, and of words that mean the same as another.
FOREIGN = re.compile(r"\b(INTEGER|FLOAT|RANGE|DIR|DIRECTORY|PATH|COL|K)\b|_")
# Where one name is for two things: what the commands say of it must differ.
DIFFERENT = {
    "--csv": "query prints its hits as CSV; others write a file",
    "--encoder": "feed takes the id of a model too",
    "--index": "deploy's is the address where a Vespa answers",
    "--language": "a model card has several",
    "--out": "locate writes a file",
    "--precision": "of towers, of encoding, of the index",
    "--split": "some take all",
    "--tag": "update takes COLUMN=VALUE",
    "--number": "update takes COLUMN=VALUE",
    "--metric": "finetune has figures of any cutoff",
    "--model": "finetune builds a tiny one",
}


def leaves() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", below) for each, below in command.commands.items())
        else:
            yield name, command


def options() -> Iterator[tuple[str, click.Option, str]]:
    """Command, option, and what stands for its value; empty for a switch."""
    for name, command in leaves():
        context = click.Context(command, info_name=name)
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                is_switch = option.is_flag or option.count or option.flag_value is not None
                shown = "" if is_switch and option.is_flag else option.make_metavar(context)
                yield name, option, shown


def test_values_are_shown_in_our_words() -> None:
    foreign = [
        (name, option.opts, shown)
        for name, option, shown in options()
        if FOREIGN.search(shown.replace("/PATH", ""))
    ]
    assert foreign == []


def test_an_option_is_alike_in_every_command() -> None:
    forms: dict[str, dict[tuple[object, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, option, shown in options():
        for written in option.opts:
            if written.startswith("--"):
                forms[written][shown, *sorted(option.opts)].append(name)
    differing = {name for name, each in forms.items() if len(each) > 1}
    assert {name: dict(forms[name]) for name in differing - set(DIFFERENT)} == {}
    assert set(DIFFERENT) - differing == set(), "no longer different"


@pytest.mark.parametrize("option", ["--index", "--encoder", "--images", "--device", "--ledger"])
def test_what_repeats_may_stand_in_the_file_or_the_environment_and_every_help_says_so(
    option: str,
) -> None:
    said = f"[env var: CLIPSEARCH_{option[2:].upper()}, or clipsearch.toml]"
    silent = [
        name
        for name, each, shown in options()
        if option in each.opts and shown != "URL" and (each.help or "").count(said) != 1
    ]
    assert silent == []


def test_examples_have_a_heading() -> None:
    for name, command in leaves():
        said = command.help or ""
        assert re.search(r"Examples?:\n +(clipsearch|CLIPSEARCH|curl)", said), name
