"""The options that `query`, `similar` and `list` share."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from clipsearch.cli.completion import complete_facets, complete_filters, complete_sort
from clipsearch.cli.listing import PLAIN, Lines, Listing
from clipsearch.cli.options import (
    UTF8,
    index_option,
    json_option,
    limit_option,
    moved_images_option,
)
from clipsearch.engine import DEFAULT_CANDIDATES
from clipsearch.search.limits import MAX_CANDIDATES, MAX_HITS
from clipsearch.search.options import QueryOptions
from clipsearch.search.synonyms import NO_SYNONYMS, Synonyms
from finetune.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Which index is asked for what, and how the answer is shown.

    Attributes:
        index: The target.
        asked: What is wanted of it, as far as the options that commands share say.
        images: Folder of the images, where they are not where the index was fed from.
        sheet: Contact sheet to write.
        locate: Show on the sheet where each image answers.
        as_json: JSON instead of hits to read.
        listing: How hits are written.
    """

    index: str
    asked: QueryOptions
    images: Path | None
    sheet: Path | None
    as_json: bool
    locate: bool = False
    listing: Listing = PLAIN


def _read_synonyms(_: click.Context, __: click.Parameter, path: Path | None) -> Synonyms:
    """Read the file of `--synonyms`. Raises UsageError where it cannot be read."""
    return NO_SYNONYMS if path is None else Synonyms.read(path)


synonyms_option = click.option(
    "--synonyms",
    type=click.Path(path_type=Path),
    callback=_read_synonyms,
    metavar="FILE",
    help='Lines of "car, automobile" or "tv => television", for the words of texts.',
)
_LIST_OPTIONS = (
    index_option,
    limit_option("Hits on a page.", 10, MAX_HITS),
    click.option(
        "--page",
        metavar="N",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Which page of hits, from 1.",
    ),
    click.option(
        "--filter",
        "filters",
        type=UTF8,
        multiple=True,
        metavar="FILTER",
        shell_complete=complete_filters,
        help="class=airport, class=a|b, class!=x, year=2010..2014, 'year>=2010',"
        " 'taken>=2019-06', near=48.1,11.6,5km; may be repeated: all must hold.",
    ),
    click.option(
        "--facet",
        "facets",
        type=UTF8,
        multiple=True,
        metavar="COLUMN",
        shell_complete=complete_facets,
        help="Count the values of this tag over all matches; may be repeated.",
    ),
    click.option(
        "--sort",
        type=UTF8,
        metavar="COLUMN",
        shell_complete=complete_sort,
        help="Order by a number or a date, or by id or path; -year is the greatest first.",
    ),
    moved_images_option,
    click.option(
        "--sheet",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write a contact sheet of the pictures, .html or .png.",
    ),
    click.option("--paths", "as_paths", is_flag=True, help="Print the images' paths alone."),
    click.option("--ids", "as_ids", is_flag=True, help="Print the ids alone."),
    click.option("--csv", "as_csv", is_flag=True, help="Print the hits as CSV, with a header."),
    click.option(
        "-0", "null", is_flag=True, help="End paths or ids with a zero byte, for xargs -0."
    ),
    click.option(
        "--preview", is_flag=True, help="Show the pictures in the terminal (kitty, iTerm2, others)."
    ),
    click.option("--open", is_flag=True, help="Open the best hit's picture."),
    json_option,
)
_RANKED_OPTIONS = (
    click.option("--exact", is_flag=True, help="Compare the vector with every document."),
    click.option("--min-score", metavar="NUMBER", type=float, help="Leave out what scores less."),
    click.option(
        "--min-cosine",
        metavar="NUMBER",
        type=float,
        help="Leave out what the vector finds with a lower cosine, -1 to 1. In a hybrid, what has"
        " a word of the query stays.",
    ),
    click.option(
        "--collapse",
        is_flag=True,
        help="Show one of pictures that look alike, and for how many more it stands.",
    ),
    click.option(
        "--candidates",
        metavar="N",
        type=click.IntRange(1, MAX_CANDIDATES),
        default=DEFAULT_CANDIDATES,
        show_default=True,
        help="Nearest by vector that a hybrid adds to the matches by word, or that are sorted or"
        " collapsed.",
    ),
    click.option(
        "--bm25-weight",
        metavar="NUMBER",
        type=float,
        help="Of the words in a hybrid. [default: the index's]",
    ),
    click.option(
        "--vector-weight",
        metavar="NUMBER",
        type=float,
        help="Of the vector in a hybrid. [default: the index's]",
    ),
    click.option(
        "--locate",
        is_flag=True,
        help="Show on the sheet, as a heat map over each picture, where it answers the query.",
    ),
)
_LISTING = ("null", "preview", "open")
_LINES: tuple[Lines, ...] = ("paths", "ids", "csv")


def list_options(command: Command) -> Command:
    """Add the options of a list; the command gets them as one argument, `options`."""
    return _with_options(command, _LIST_OPTIONS)


def search_options(command: Command) -> Command:
    """Add the options of a search; the command gets them as one argument, `options`."""
    return _with_options(command, (*_LIST_OPTIONS[:-1], *_RANKED_OPTIONS, _LIST_OPTIONS[-1]))


def _with_options(command: Command, added: Sequence[Callable[[Any], Any]]) -> Command:
    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        lines = _lines(values)
        listing = Listing(lines=lines, **{name: values.pop(name) for name in _LISTING})
        if listing.null and listing.lines not in ("paths", "ids"):
            raise UsageError("-0 ends paths or ids with a zero byte: add --paths or --ids")
        asked = QueryOptions(**_taken(values, QueryOptions))
        own = _taken(values, SearchOptions)
        options = SearchOptions(**own, asked=asked, listing=listing)
        return command(options=options, **values)

    decorated: Any = with_options
    for option in reversed(added):
        decorated = option(decorated)
    result: Command = decorated
    return result


def _lines(values: dict[str, Any]) -> Lines | None:
    """Take the form of the lines from a command's values. Raises UsageError for two."""
    asked = [name for name in _LINES if values.pop(f"as_{name}")]
    forms = [f"--{name}" for name in asked] + ["--json"] * bool(values["as_json"])
    if len(forms) > 1:
        raise UsageError(f"{forms[0]} and {forms[1]} are two forms of an answer; give one of them")
    return asked[0] if asked else None


def _taken(values: dict[str, Any], record: type[QueryOptions | SearchOptions]) -> dict[str, Any]:
    """Take from a command's values those that a record has fields for."""
    return {each.name: values.pop(each.name) for each in fields(record) if each.name in values}
