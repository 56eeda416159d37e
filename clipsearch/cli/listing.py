"""Hits as people read them on a terminal, and as programs read them from a pipe.

On a terminal a hit is a block: rank, score and id, the path whole and clickable (OSC 8), and its
best caption cut to two lines with matches marked. Elsewhere it is a line with tabs between rank,
score, id, path and caption.
"""

import csv
import io
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from clipsearch.cli.messages import note
from clipsearch.cli.previews import preview
from clipsearch.documents import Document
from clipsearch.engine import Hit
from clipsearch.search.answer import Answer
from clipsearch.search.highlight import MarkedCaption, best_caption
from clipsearch.search.images import ImageFolders
from finetune.console import pieces, printable
from finetune.text.numerals import number_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Lines = Literal["paths", "ids", "csv"]
CSV_HEADER = ("rank", "score", "bm25", "cosine", "id", "path", "caption")
_INDENT = "    "
_CAPTION_LINES = 2
# Of a caption on a line for programs, in characters; the JSON has all.
_CAPTION_ON_LINE = 1000


@dataclass(frozen=True, slots=True)
class Listing:
    """How hits are written.

    Attributes:
        lines: One thing of each hit a line: the image's path, its id, or a row of CSV; None is
            blocks on a terminal, and lines with tabs elsewhere.
        null: End each path or id with a zero byte, for `xargs -0`.
        preview: Show the images in the terminal.
        open: Open the best hit's image with the system's viewer.
    """

    lines: Lines | None = None
    null: bool = False
    preview: bool = False
    open: bool = False


PLAIN = Listing()


def is_for_people() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def write_lines(answer: Answer, listing: Listing) -> None:
    """Write a line for each hit to standard output, and nothing else."""
    folders = ImageFolders(answer.info, answer.images)
    if listing.lines == "csv":
        click.echo(_csv(answer, folders), nl=False)
        return
    end = "\0" if listing.null else "\n"
    for rank, hit in enumerate(answer.page.hits, answer.page.offset + 1):
        if listing.lines == "paths":
            text = whole_path(hit, folders)
        elif listing.lines == "ids":
            text = hit.document.id
        else:
            text = "\t".join(_fields(rank, hit, answer, folders))
        # Zero bytes end names as they are; elsewhere one with a line end in it would be two.
        click.echo((text if listing.null else printable_line(text)) + end, nl=False)


def printable_line(text: str) -> str:
    """Return the text with its tabs, on one line, without what steers a terminal."""
    return "\t".join(map(printable, text.split("\t")))


def whole_path(hit: Hit, folders: ImageFolders) -> str:
    """Return the absolute path of the hit's image, or what the index has where it is not here."""
    found = folders.find(hit.document.path)
    return hit.document.path if found is None else str(found)


def write_blocks(answer: Answer, console: "Console", *, previews: bool) -> None:
    """Write a block for each hit to a terminal."""
    folders = ImageFolders(answer.info, answer.images)
    color = console.color_system is not None
    for rank, hit in enumerate(answer.page.hits, answer.page.offset + 1):
        source = folders.source(hit.document.path) if previews else None
        if source is not None and (shown := preview(source)):
            console.file.write(shown + "\n")
        for line in block(rank, hit, answer, folders, width=console.width, color=color):
            # What is longer than a line, a path, stays one piece for the terminal to wrap.
            console.print(line, soft_wrap=True)


def block(
    rank: int, hit: Hit, answer: Answer, folders: ImageFolders, *, width: int, color: bool
) -> "Iterator[Text]":
    """Yield the lines of a hit's block."""
    from rich.text import Text  # light path: most commands print no hits

    document = hit.document
    head = Text(f"{rank:>3} ")
    head.append(printable(document.id), style="bold")
    parts = [("bm25", hit.bm25), ("cosine", hit.cosine)]
    told = [score_text(hit, answer, named=True)]
    told += [f"{name} {value:z.4f}" for name, value in parts if value is not None]
    head.append("  " + "  ".join(filter(None, told)), style="dim")
    if hit.more:
        head.append(f"  and {hit.more:,} more like it", style="dim")
    yield head
    found = folders.find(document.path)
    if document.path:
        path = Text(_INDENT)
        link = "" if found is None else f" link {found.as_uri()}"
        where = document.path if found is None else str(found)
        path.append(printable(where), style=f"cyan{link}" if color else None)
        yield path
    yield from _caption(answer, hit, width, color=color)


def _caption(answer: Answer, hit: Hit, width: int, *, color: bool) -> "Iterator[Text]":
    from rich.text import Text  # light path: most commands print no hits

    room = max(width - len(_INDENT), 20)
    best = marked_caption(hit.document, answer).excerpt(room * _CAPTION_LINES - 2)
    caption = Text()
    for piece, match in pieces(best.caption, best.spans):
        marked = piece if color or not match else f"*{piece}*"
        caption.append(printable(marked), style="bold yellow" if match else None)
    lines = textwrap.wrap(caption.plain, room, break_on_hyphens=False)
    start = 0
    for number, line in enumerate(lines[:_CAPTION_LINES], 1):
        start = caption.plain.index(line, start)
        cut = number == _CAPTION_LINES and len(lines) > number
        yield Text(_INDENT) + caption[start : start + len(line)] + Text("…" if cut else "")
        start += len(line)


def _fields(
    rank: int, hit: Hit, answer: Answer, folders: ImageFolders
) -> tuple[str, str, str, str, str]:
    caption = marked_caption(hit.document, answer)
    text = caption.excerpt(_CAPTION_ON_LINE).caption
    fields = (hit.document.id, whole_path(hit, folders), text)
    identifier, path, shown = (printable(each) for each in fields)
    return str(rank), score_text(hit, answer), identifier, path, shown


def marked_caption(document: Document, answer: Answer) -> MarkedCaption:
    """Return the caption that answers best, with the places of the matches."""
    words, language = answer.words, answer.info.language
    return best_caption(document.captions, words.marked, language, words.marked_prefixes)


def score_text(hit: Hit, answer: Answer, *, named: bool = False) -> str:
    """Return what the hit is ordered by; "" where that is a text."""
    name = answer.score_name
    if name is None:
        return ""
    if name == "score":
        return f"{hit.score:z.4f}"
    shown = number_text(hit.score)
    if name in answer.info.date_columns:
        shown = printable(hit.document.tags.get(name, shown))
    return f"{printable(name)} {shown}" if named else shown


def _csv(answer: Answer, folders: ImageFolders) -> str:
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(CSV_HEADER)
    for rank, hit in enumerate(answer.page.hits, answer.page.offset + 1):
        caption = marked_caption(hit.document, answer).caption
        rows.writerow(
            [rank, hit.score, hit.bm25, hit.cosine, hit.document.id, whole_path(hit, folders),
             caption]
        )  # fmt: skip
    return written.getvalue()


def open_best(answer: Answer) -> None:
    """Open the best hit's image with the system's viewer; say so where it is not here."""
    if not answer.page.hits:
        return
    best = answer.page.hits[0]
    found = ImageFolders(answer.info, answer.images).find(best.document.path)
    if found is None:
        where = best.document.path or best.document.id
        note(f"{where} is not here; say where with --images FOLDER")
    else:
        launch(found)


def launch(path: Path) -> None:
    """Open a file with the system's viewer, and do not wait for it."""
    if click.launch(str(path)) != 0:
        note(f"no viewer opened {path}")
