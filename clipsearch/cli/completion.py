"""What the shell completes by itself: from the index, and names that clipsearch knows.

Nothing is said where it cannot be had: a shell shows no errors while one types. Nor is it waited
for: what an index does not answer within a second is not completed.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from clipsearch.engine import Engine

MOST_IDS = 50
MOST_VALUES = 100
SECONDS = 1.0
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _at_most_a_second(completer: Completer) -> Completer:
    """Run a completer on a thread of its own, and return nothing where it fails or takes long."""

    @wraps(completer)
    def completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        found: list[str] = []

        def work() -> None:
            with contextlib.suppress(Exception):
                found.extend(completer(ctx, param, incomplete))

        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(SECONDS)
        return found

    return completed


@_at_most_a_second
def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids of the index that begin so: the first found within a second."""
    found: list[str] = []
    until = time.monotonic() + 0.9 * SECONDS
    with _engine(ctx) as engine:
        if engine is None:
            return found
        for document in engine.visit():
            if document.id.startswith(incomplete):
                found.append(document.id)
            if len(found) >= MOST_IDS or time.monotonic() > until:
                break
    return found


@_at_most_a_second
def complete_facets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the index's columns of tags that begin so."""
    with _engine(ctx) as engine:
        columns = () if engine is None else engine.info.counted_columns
    return _beginning(columns, incomplete)


@_at_most_a_second
def complete_sort(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return what the index's documents can be ordered by.

    What begins with - click takes for an option.
    """
    with _engine(ctx) as engine:
        columns = () if engine is None else engine.info.compared_columns
    return _beginning(("id", "path", *columns), incomplete)


@_at_most_a_second
def complete_filters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the index's columns that begin so; of a column of tags its most frequent values."""
    with _engine(ctx) as engine:
        if engine is None:
            return []
        info = engine.info
        for operator in ("!=", "="):
            column, found, value = incomplete.partition(operator)
            if found and column in info.counted_columns:
                values = _values(engine, column, value.casefold())
                return [f"{column}{operator}{each}" for each in values]
    return _beginning(
        (f"{each}=" for each in (*info.tag_columns, *info.compared_columns)), incomplete
    )


@_at_most_a_second
def complete_tags(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the index's columns of tags that begin so, or the most frequent values of one."""
    with _engine(ctx) as engine:
        if engine is None:
            return []
        column, found, value = incomplete.partition("=")
        if found and column in engine.info.counted_columns:
            values = _values(engine, column, value.casefold())
            return [f"{column}={each}" for each in values]
        return _beginning((f"{each}=" for each in engine.info.tag_columns), incomplete)


def complete_labels(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Return the index's columns of tags, and files."""
    return _beside("file", complete_facets(ctx, param, incomplete), incomplete)


def complete_encoders(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Return ids of encoders that are known to fit, and folders."""
    return _beside("dir", _known_encoders(incomplete), incomplete)


def complete_encoder_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids of encoders that are known to fit."""
    return _known_encoders(incomplete)


def complete_recipes(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Return names of the packaged recipes, and files."""
    from finetune.config.recipes import recipe_names  # light path: PyYAML

    return _beside("file", _beginning(recipe_names(), incomplete), incomplete)


def complete_languages(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the languages that texts of an index may have."""
    from clipsearch.text import LANGUAGES  # light path: PyStemmer

    return _beginning(LANGUAGES, incomplete)


def _known_encoders(incomplete: str) -> list[str]:
    from clipsearch.hub.known import KNOWN

    return _beginning((name for each in KNOWN for name in (each.id, each.original)), incomplete)


def _beside(kind: str, names: Iterable[str], incomplete: str) -> "list[CompletionItem[str]]":
    """Return names, and that files or folders do as well; bash takes those where no name does."""
    return [CompletionItem(incomplete, type=kind), *map(CompletionItem, names)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _values(engine: "Engine", column: str, begun: str) -> list[str]:
    """Return the values of a column that begin so, whatever their case, the most frequent first."""
    from clipsearch.engine import EngineQuery  # light path: NumPy

    counts = engine.search(EngineQuery(None, k=1, facets=(column,))).facets[column]
    found = (value for value, _ in counts if value.casefold().startswith(begun))
    return list(found)[:MOST_VALUES]


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

    engine = open_engine(target)
    try:
        yield engine
    finally:
        engine.close()
