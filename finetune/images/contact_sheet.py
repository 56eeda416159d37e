"""Contact sheets: many small images with a line or two each, as HTML or PNG.

The HTML needs no other file (thumbnails are inlined) and no network; the PNG is a grid that any
viewer shows.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.console import pieces, printable
from finetune.errors import ClipsearchError, UsageError
from finetune.files.outputs import write_html, write_png
from finetune.images.thumbnails import THUMBNAIL, Cell, thumbnail

MAX_PNG_CELLS = 400


def check_form(path: Path, cells: int) -> None:
    """Raise UsageError unless a sheet of so many cells can have the form that `path` names."""
    suffix = path.suffix.lower()
    if suffix not in (".html", ".htm", ".png"):
        raise UsageError(f"{path}: a contact sheet is .html or .png; give it such a name")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if suffix == ".png" and cells > MAX_PNG_CELLS:
        raise UsageError(
            f"{path}: a .png sheet holds at most {MAX_PNG_CELLS} pictures, not {cells};"
            f" ask for fewer, or write .html"
        )


def write_sheet(
    path: Path, cells: Sequence[Cell], heading: str, *, columns: int | None = None
) -> None:
    """Write the sheet, .html or .png by the name of `path`; an older one is replaced whole.

    `columns`: cells of a row, where rows mean something; None fits them to the space.

    Raises UsageError for another name or too many cells, ClipsearchError where the disk refuses.
    """
    check_form(path, len(cells))
    try:
        if path.suffix.lower() == ".png":
            from finetune.images.contact_sheet_png import (
                draw_sheet,  # light path: HTML draws nothing
            )

            buffer = io.BytesIO()
            draw_sheet(cells, heading, columns).save(buffer, format="PNG")
            write_png(path, buffer.getvalue())
        else:
            write_html(path, _html(cells, heading, columns))
    except OSError as error:
        raise ClipsearchError(f"{path}: cannot be written ({error.strerror or error})") from error


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #8885; border-radius: 6px; overflow: hidden; }
.picture { height: 256px; display: flex; align-items: center; justify-content: center;
  background: #8882; }
.missing { padding: 1rem; overflow-wrap: anywhere; opacity: .8; }
figcaption { padding: .5rem .7rem .7rem; overflow-wrap: anywhere; }
figcaption b { display: block; font-size: .85rem; }
mark { background: #ffd84d; color: #000; border-radius: 2px; }
"""


def _html(cells: Sequence[Cell], heading: str, columns: int | None) -> Iterator[str]:
    title = html.escape(printable(heading))
    grid = ""
    if columns is not None:
        grid = f' style="grid-template-columns: repeat({columns}, minmax(9rem, 1fr))"'
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<main{grid}>\n"
    )
    for cell in cells:
        yield (
            f'<figure><div class="picture">{_html_image(cell)}</div>'
            f"<figcaption><b>{html.escape(printable(cell.title))}</b>{_html_text(cell)}"
            "</figcaption></figure>\n"
        )
    yield "</main>\n</body>\n</html>\n"


def _html_image(cell: Cell) -> str:
    image = thumbnail(cell, (THUMBNAIL, THUMBNAIL))
    if isinstance(image, str):
        return f'<span class="missing">{html.escape(printable(image))}</span>'
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = image.size
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
        f' alt="{html.escape(printable(cell.text))}">'
    )


def _html_text(cell: Cell) -> str:
    marked = (
        f"<mark>{html.escape(printable(piece))}</mark>" if match else html.escape(printable(piece))
        for piece, match in pieces(cell.text, cell.spans)
    )
    return "".join(marked)
