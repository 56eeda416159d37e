"""The options that `query` and `similar` share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from clipsearch.cli.options import UTF8, index_option, json_option
from clipsearch.search.search import MAX_HITS

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Which index is asked, for how much, and how the answer is shown.

    Attributes:
        index: The target.
        k: Hits a page.
        page: From 1.
        filters: As written; see clipsearch.search.filters.
        facets: Tag columns to count.
        exact: Without an approximate index.
        images: Folder of the images, where they are not where the index was fed from.
        sheet: Contact sheet to write.
        locate: Show on the sheet where each image answers.
        as_json: JSON instead of the table.
    """

    index: str
    k: int
    page: int
    filters: tuple[str, ...]
    facets: tuple[str, ...]
    exact: bool
    images: Path | None
    sheet: Path | None
    locate: bool
    as_json: bool


_OPTIONS = (
    index_option,
    click.option(
        "-k", "k", type=click.IntRange(1, MAX_HITS), default=10, show_default=True, help="Hits."
    ),
    click.option(
        "--page", type=click.IntRange(1), default=1, show_default=True, help="Page, from 1."
    ),
    click.option(
        "--filter",
        "filters",
        type=UTF8,
        multiple=True,
        metavar="FILTER",
        help="class=airport, class=a|b, class!=x, year=2010..2014, 'year>=2010'; all must hold.",
    ),
    click.option(
        "--facet",
        "facets",
        type=UTF8,
        multiple=True,
        metavar="COLUMN",
        help="Count the values of this tag over all matches.",
    ),
    click.option("--exact", is_flag=True, help="Compare the vector with every document."),
    click.option(
        "--images",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Folder of the pictures, if they have moved since the feed.",
    ),
    click.option(
        "--sheet",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write a contact sheet of the pictures, .html or .png.",
    ),
    click.option(
        "--locate",
        is_flag=True,
        help="Show on the sheet, as a heat map over each picture, where it answers the query.",
    ),
    json_option,
)


def search_options(command: Command) -> Command:
    """Add the options; the command gets them as one argument, `options`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        names = SearchOptions.__dataclass_fields__
        options = SearchOptions(**{name: values.pop(name) for name in names})
        return command(options=options, **values)

    decorated: Any = with_options
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: Command = decorated
    return result
