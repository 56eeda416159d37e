"""An answer as people and programs read it: hits, JSON, or a contact sheet."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.explanations import print_explanations, weights_told, write_explanations
from clipsearch.cli.listing import (
    PLAIN,
    Listing,
    is_for_people,
    marked_caption,
    open_best,
    score_text,
    write_blocks,
    write_lines,
)
from clipsearch.cli.messages import note
from clipsearch.documents import Document
from clipsearch.engine import Hit, Page
from clipsearch.search.answer import Answer, answer_json, json_text
from clipsearch.search.images import ImageFolders
from clipsearch.search.missing_images import about_missing
from finetune.console import printable
from finetune.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console

    from clipsearch.cli.locating import Locate
    from finetune.images.source import ImageSource

_FACET_VALUES_SHOWN = 12
# Characters; the JSON has all.
_CAPTION_ON_SHEET = 1000


def show(
    answer: Answer,
    *,
    as_json: bool,
    sheet: Path | None,
    locate: "Locate | None" = None,
    listing: Listing = PLAIN,
) -> int:
    """Print the answer, write the sheet, and return the exit code: 3 where it is partial.

    With `locate` the sheet's images have their heat maps over them.
    """
    if as_json:
        click.echo(json_text(answer_json(answer), indent=2))
    else:
        _print(answer, listing)
    paths = (hit.document.path for hit in answer.page.hits)
    missing = about_missing(paths, answer.info, [answer.images] if answer.images else [])
    if missing is not None:
        note(missing)
    if listing.open:
        open_best(answer)
    if sheet is not None:
        _write_sheet(answer, sheet, locate)
        click.echo(f"Wrote {sheet}", err=True)
    return exit_code(answer.page)


def exit_code(page: Page) -> int:
    """Return 0, or 3 where the answer may be incomplete."""
    return 0 if page.partial is None else EXIT_SOME_REJECTED


def _print(answer: Answer, listing: Listing) -> None:
    """Print hits, and what is to be said of them; only hits go to what is no terminal."""
    page = answer.page
    for_people = is_for_people() and listing.lines is None
    if for_people:
        console = _console()
        write_blocks(answer, console, previews=listing.preview)
    else:
        write_lines(answer, listing)
    if any(hit.explanation is not None for hit in page.hits):
        if listing.lines is None and not for_people:
            write_explanations(page)
        else:
            print_explanations(page, err=not for_people)
    said = [_summary(answer), *weights_told(page, answer.info)]
    for column, counts in page.facets.items():
        shown = [f"{printable(value)} {count}" for value, count in counts[:_FACET_VALUES_SHOWN]]
        more = len(counts) - len(shown)
        line = ", ".join(shown) + (f", and {more} more" if more else "")
        said.append(f"{printable(column)}: {line or 'none'}")
    for line in said:
        click.echo(line, err=not for_people)
    for told in page.notes:
        note(told)
    if page.partial is not None:
        click.echo(f"Warning: the answer may be incomplete: {printable(page.partial)}", err=True)


def _console() -> "Console":
    from rich.console import Console  # light path: --help prints no hits

    return Console(highlight=False, markup=False, emoji=False)


def _summary(answer: Answer) -> str:
    page = answer.page
    if not page.hits:
        if page.offset and page.total:
            last_page = -(-page.total // answer.k)
            return f"No more pictures: {page.total:,} in all, the last page is {last_page:,}."
        return "No picture found."
    first, last = page.offset + 1, page.offset + len(page.hits)
    pages = -(-max(page.total, last) // answer.k)
    ranked = "" if page.candidates is None else f" the nearest {page.candidates:,} ranked,"
    paged = f"of {_found(page)}, page {page.offset // answer.k + 1} of {pages:,}"
    if answer.collapsed:
        paged = f"of one of each look, {_found(page)} found in all"
    return f"{first:,}-{last:,} {paged},{ranked} in {page.seconds * 1000:.1f} ms"


def _shown(answer: Answer) -> str:
    """Return which hits of how many these are."""
    page = answer.page
    if not page.hits:
        return "none found"
    return f"{page.offset + 1:,}-{page.offset + len(page.hits):,} of {_found(page)}"


def _found(page: Page) -> str:
    return f"{'at least ' if page.at_least else ''}{page.total:,}"


def _write_sheet(answer: Answer, path: Path, locate: "Locate | None") -> None:
    from finetune.images.contact_sheet import write_sheet  # light path: most answers need no Pillow
    from finetune.images.thumbnails import Cell  # light path: most answers need no Pillow

    folders = ImageFolders(answer.info, answer.images)
    cells: list[Cell] = []
    notes: list[str] = []
    for rank, hit in enumerate(answer.page.hits, answer.page.offset + 1):
        document = hit.document
        caption = marked_caption(document, answer)
        caption = caption.excerpt(_CAPTION_ON_SHEET)
        cells.append(
            Cell(
                image=_sheet_image(document, folders, locate, notes),
                title=_title(rank, hit, answer),
                text=caption.caption,
                spans=caption.spans,
                missing=f"{document.path or 'picture'} not found; say where with --images FOLDER",
            )
        )
    write_sheet(path, cells, f"{answer.heading}: {_shown(answer)}")
    for told in dict.fromkeys(notes):
        note(told)


def _title(rank: int, hit: Hit, answer: Answer) -> str:
    parts = [f"{rank}. {score_text(hit, answer)}".strip(), hit.document.id]
    return "  ".join([*parts, *([f"and {hit.more:,} more"] if hit.more else [])])


def _sheet_image(
    document: Document, folders: ImageFolders, locate: "Locate | None", notes: list[str]
) -> "ImageSource | Image | None":
    """Return what the sheet shows of a document; with `locate` under its heat map.

    An image that cannot be looked into is shown, or missed, as it is without: `notes` says why.
    """
    source = folders.source(document.path)
    if locate is None or source is None:
        return source
    try:
        image, said = locate(source)
    except ImageError as error:
        notes.append(f"{document.id} is shown without a heat map: {error}")
        return source
    notes.extend(said)
    return image
