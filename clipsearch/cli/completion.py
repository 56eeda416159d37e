"""What the shell completes from the index: ids of documents, and columns of metadata.

Nothing is said where it cannot be had: a shell shows no errors while one types.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from finetune.errors import ClipsearchError

if TYPE_CHECKING:
    from clipsearch.engine import Engine

MOST_IDS = 50
SECONDS = 1.0


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids of the index that begin so: the first found within a second."""
    found: list[str] = []
    until = time.monotonic() + SECONDS
    with _engine(ctx) as engine:
        if engine is None:
            return found
        for document in engine.visit():
            if document.id.startswith(incomplete):
                found.append(document.id)
            if len(found) >= MOST_IDS or time.monotonic() > until:
                break
    return found


def complete_facets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the index's columns of tags that begin so."""
    with _engine(ctx) as engine:
        columns = () if engine is None else engine.info.counted_columns
    return [column for column in columns if column.startswith(incomplete)]


def complete_filters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the index's columns that begin so, with what a filter has next."""
    with _engine(ctx) as engine:
        info = None if engine is None else engine.info
    columns = [] if info is None else [*info.tag_columns, *info.compared_columns]
    return [f"{column}=" for column in columns if column.startswith(incomplete)]


@contextmanager
def _engine(ctx: click.Context) -> "Iterator[Engine | None]":
    target = ctx.params.get("index") or ctx.lookup_default("index")
    if target is None:
        # While a command line is completed, click takes nothing of the environment.
        names = [each for each in ctx.command.params if each.name == "index"]
        target = names[0].value_from_envvar(ctx) if names else None
    if not isinstance(target, str):
        yield None
        return
    from clipsearch.engines import open_engine  # light path: NumPy

    try:
        engine = open_engine(target)
    except (ClipsearchError, OSError):
        yield None
        return
    try:
        yield engine
    finally:
        engine.close()
