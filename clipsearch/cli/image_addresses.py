"""Images that a command line names by address, and which of them are asked for."""

import os
from pathlib import Path
from typing import Any

import click

from clipsearch.cli.options import Command
from finetune.images.addresses import PRIVATE_VARIABLE, FetchLimits, fetched, is_address


def private_addresses_option(command: Command) -> Command:
    """Add `--allow-private-addresses`; the command gets `limits`, the FetchLimits."""

    def limits(context: click.Context, parameter: click.Parameter, given: bool) -> FetchLimits:
        return FetchLimits(private=given)

    decorated: Any = click.option(
        "--allow-private-addresses",
        "limits",
        is_flag=True,
        callback=limits,
        envvar=PRIVATE_VARIABLE,
        show_envvar=True,
        help="Fetch pictures by address (https://…) from this machine and this network too.",
    )(command)
    result: Command = decorated
    return result


def image_file(image: str, limits: FetchLimits) -> Path | None:
    """Return the file that an argument names, by path or by address; None where there is none.

    Raises ImageError for an address that gives no image.
    """
    if is_address(image):
        return fetched(image, limits)
    return Path(image) if os.path.isfile(image) else None  # noqa: PTH113  # any bytes may be a name
