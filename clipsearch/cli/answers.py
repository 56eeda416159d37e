"""An answer as people and programs read it: a table, JSON, or a contact sheet."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.documents import Document
from clipsearch.engine import Hit, Page
from clipsearch.search.answer import Answer, answer_json, json_text
from clipsearch.search.highlight import MarkedCaption, best_caption
from clipsearch.search.images import ImageFolders
from finetune.console import pieces, printable
from finetune.errors import ImageError
from finetune.text.numerals import number_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clipsearch.cli.locating import Locate
    from finetune.images.source import ImageSource

PLAIN_WIDTH = 100
_FACET_VALUES_SHOWN = 12
# A document's fields of text that the table shows under its id.
_UNDER_ID = ("path",)
# Characters; the JSON has all.
_CAPTION_SHOWN = 300
_CAPTION_ON_SHEET = 1000


def show(
    answer: Answer, *, as_json: bool, sheet: Path | None, locate: "Locate | None" = None
) -> int:
    """Print the answer, write the sheet, and return the exit code: 3 where it is partial.

    With `locate` the sheet's images have their heat maps over them.
    """
    if as_json:
        click.echo(json_text(answer_json(answer), indent=2))
    else:
        _print_table(answer)
    if sheet is not None:
        _write_sheet(answer, sheet, locate)
        click.echo(f"Wrote {sheet}", err=True)
    return exit_code(answer.page)


def exit_code(page: Page) -> int:
    """Return 0, or 3 where the answer may be incomplete."""
    return 0 if page.partial is None else EXIT_SOME_REJECTED


def _print_table(answer: Answer) -> None:
    from rich.text import Text  # light path: --help prints no table

    page, console = answer.page, _console()
    if page.hits:
        console.print(_table(answer, color=console.color_system is not None))
    console.print(Text(_summary(answer)))
    for column, counts in page.facets.items():
        shown = [f"{printable(value)} {count}" for value, count in counts[:_FACET_VALUES_SHOWN]]
        more = len(counts) - len(shown)
        line = ", ".join(shown) + (f", and {more} more" if more else "")
        console.print(Text(f"{printable(column)}: {line or 'none'}"))
    for note in page.notes:
        click.echo(f"Note: {printable(note)}", err=True)
    if page.partial is not None:
        click.echo(f"Warning: the answer may be incomplete: {printable(page.partial)}", err=True)


def _console() -> "Console":
    """Return a console of a terminal's own width; elsewhere of COLUMNS or 100, so that output is
    the same again.
    """
    from rich.console import Console

    width = None
    if not sys.stdout.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = max(40, int(columns)) if columns.isdecimal() else PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _table(answer: Answer, *, color: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    page = answer.page
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    parts = [part for part in ("bm25", "cosine") if any(_part(hit, part) for hit in page.hits)]
    named = ("#", *([answer.score_name] if answer.score_name else []), *parts)
    for name in map(printable, named):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("id, path", overflow="fold", ratio=2, min_width=12)
    table.add_column("caption", overflow="fold", ratio=3, min_width=12)
    for rank, hit in enumerate(page.hits, page.offset + 1):
        document = hit.document
        found = Text(printable(document.id), style="bold")
        for name in _UNDER_ID:
            if (value := getattr(document, name)) and value != document.id:
                found.append(f"\n{printable(value)}", style="not bold dim")
        if hit.more:
            found.append(f"\nand {hit.more:,} more like it", style="not bold dim")
        best = _best_caption(document, answer)
        best = best.excerpt(_CAPTION_SHOWN)
        caption = Text()
        for piece, match in pieces(best.caption, best.spans):
            _append(caption, printable(piece), match, color)
        table.add_row(
            str(rank), *_score(hit, answer), *(_part(hit, part) for part in parts), found, caption
        )
    return table


def _score(hit: Hit, answer: Answer) -> tuple[str, ...]:
    """Return what the hit is ordered by; nothing where that is a text."""
    if answer.score_name is None:
        return ()
    return (f"{hit.score:.4f}" if answer.score_name == "score" else number_text(hit.score),)


def _best_caption(document: Document, answer: Answer) -> MarkedCaption:
    words, language = answer.words, answer.info.language
    return best_caption(document.captions, words.marked, language, words.marked_prefixes)


def _append(text: "Text", piece: str, match: bool, color: bool) -> None:
    """Show a match bold and yellow, or between asterisks where there are no colours."""
    if match:
        text.append(piece if color else f"*{piece}*", style="bold yellow")
    else:
        text.append(piece)


def _part(hit: Hit, part: str) -> str:
    value = hit.bm25 if part == "bm25" else hit.cosine
    return "" if value is None else f"{value:.4f}"


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
    found = f"{'at least ' if page.at_least else ''}{page.total:,}"
    paged = f"of {found}, page {page.offset // answer.k + 1} of {pages:,}"
    if answer.collapsed:
        paged = f"of one of each look, {found} found in all"
    return f"{first:,}-{last:,} {paged},{ranked} in {page.seconds * 1000:.1f} ms"


def _write_sheet(answer: Answer, path: Path, locate: "Locate | None") -> None:
    from finetune.images.contact_sheet import write_sheet  # light path: most answers need no Pillow
    from finetune.images.thumbnails import Cell  # light path: most answers need no Pillow

    folders = ImageFolders(answer.info, answer.images)
    cells: list[Cell] = []
    notes: list[str] = []
    for rank, hit in enumerate(answer.page.hits, answer.page.offset + 1):
        document = hit.document
        caption = _best_caption(document, answer)
        caption = caption.excerpt(_CAPTION_ON_SHEET)
        cells.append(
            Cell(
                image=_sheet_image(document, folders, locate, notes),
                title=_title(rank, hit, answer),
                text=caption.caption,
                spans=caption.spans,
                missing=f"{document.path or 'picture'} not found; say where with --images DIR",
            )
        )
    write_sheet(path, cells, f"{answer.heading}: {_summary(answer)}")
    for note in dict.fromkeys(notes):
        click.echo(f"Note: {printable(note)}", err=True)


def _title(rank: int, hit: Hit, answer: Answer) -> str:
    parts = [f"{rank}. {' '.join(_score(hit, answer))}".strip(), hit.document.id]
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
