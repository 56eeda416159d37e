"""The options of a model card for `clipsearch export`, as `clipsearch finetune` has them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.options import UTF8
from finetune.config.card_settings import CardSettings
from finetune.config.setting import settings_of

if TYPE_CHECKING:
    from finetune.export.card_facts import CardFacts

Command = TypeVar("Command", bound=Callable[..., Any])

NAMES = ("contact", "datasets", "language", "license")


def card_options(command: Command) -> Command:
    """Add an option for each fact that no run can measure."""
    for name in NAMES:
        declared = settings_of(CardSettings)[name]
        add = click.option(
            f"--{name}",
            type=UTF8,
            metavar=declared.metavar,
            help=f"For the model card: {declared.help[0].lower()}{declared.help[1:]}",
        )
        command = add(command)
    return command


def card_facts(
    license: str | None, language: str | None, datasets: str | None, contact: str | None
) -> "CardFacts":
    """Return the values of the options as the export takes them."""
    from finetune.export.card_facts import CardFacts  # only where something is exported

    return CardFacts(
        license=license, language=_listed(language), datasets=_listed(datasets), contact=contact
    )


def _listed(words: str | None) -> tuple[str, ...]:
    """Return the parts of a text with commas."""
    return tuple(filter(None, (word.strip() for word in (words or "").split(","))))
