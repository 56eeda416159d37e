"""The contact sheet as one image: a grid with a title and wrapped text under each cell."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from finetune.console import pieces, printable
from finetune.images.thumbnails import Cell, thumbnail

_IMAGE = (240, 180)
_MARGIN = 12
_TEXT_SIZE = 14
_LINE = 19
_TEXT_LINES = 3
_CELL = (_IMAGE[0] + _MARGIN, _IMAGE[1] + (1 + _TEXT_LINES) * _LINE + 2 * _MARGIN)
_HEADING = 44
_MAX_COLUMNS = 6

_PAPER, _EMPTY, _INK, _PALE, _MARK = "#ffffff", "#ececec", "#202020", "#666666", "#ffd84d"

# Tried in this order: they know more scripts than the font that comes with Pillow.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Word = tuple[str, bool]  # with its trailing blank; whether it is marked


def draw_sheet(cells: Sequence[Cell], heading: str, columns: int | None = None) -> Image.Image:
    """Return the sheet as an RGB image, rows of `columns` cells, or of up to six."""
    columns = columns or max(1, min(_MAX_COLUMNS, math.ceil(math.sqrt(len(cells)))))
    rows = math.ceil(len(cells) / columns)
    width = max(columns * _CELL[0] + _MARGIN, 2 * _CELL[0] + _MARGIN)
    sheet = Image.new("RGB", (width, _HEADING + rows * _CELL[1] + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font()
    lines = _wrap([(printable(heading), False)], width - 2 * _MARGIN, 1, font)
    _draw_lines(draw, (_MARGIN, _MARGIN), lines, font, _INK)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        corner = (_MARGIN + column * _CELL[0], _HEADING + row * _CELL[1])
        _draw_cell(sheet, draw, corner, cell, font)
    return sheet


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], cell: Cell, font: _Font
) -> None:
    left, top = corner
    width, height = _IMAGE
    image = thumbnail(cell, _IMAGE)
    if isinstance(image, str):
        draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_EMPTY)
        reason = _wrap([(printable(image), False)], width - 2 * _MARGIN, 6, font)
        _draw_lines(draw, (left + _MARGIN, top + _MARGIN), reason, font, _PALE)
    else:
        x = left + (width - image.width) // 2
        sheet.paste(image, (x, top + (height - image.height) // 2))
    top += height + 4
    draw.text((left, top), _one_line(printable(cell.title), width, font), fill=_PALE, font=font)
    marked = [(printable(piece), match) for piece, match in pieces(cell.text, cell.spans)]
    text = _wrap(marked, width, _TEXT_LINES, font)
    _draw_lines(draw, (left, top + _LINE), text, font, _INK)


def _font() -> _Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _TEXT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(_TEXT_SIZE)


def _one_line(title: str, width: int, font: _Font) -> str:
    """Return `title`, shortened in its middle.

    A score begins it, and the end of an id tells most.
    """
    if font.getlength(title) <= width:
        return title
    head = title[: len(title) // 3]
    tail = title[len(head) :]
    while tail and font.getlength(f"{head}…{tail}") > width:
        tail = tail[1:]
    return f"{head}…{tail}"


def _wrap(
    marked: Sequence[tuple[str, bool]], width: int, max_lines: int, font: _Font
) -> list[list[_Word]]:
    """Cut a text into lines that fit `width` pixels; what is beyond the last line ends in an
    ellipsis.
    """
    lines: list[list[_Word]] = [[]]
    used = 0.0
    for word, match in _words(marked):
        for piece in _fitting(word, width, font):
            length = font.getlength(piece.rstrip())
            if lines[-1] and used + length > width:
                if len(lines) == max_lines:
                    lines[-1].append(("…", False))
                    return lines
                lines.append([])
                used = 0.0
            lines[-1].append((piece, match))
            used += font.getlength(piece)
    return lines


def _words(marked: Sequence[tuple[str, bool]]) -> list[_Word]:
    words: list[_Word] = []
    for text, match in marked:
        words.extend((part + " ", match) for part in text.split(" "))
        last, _ = words.pop()
        if last.strip():  # no blank follows the end of a piece
            words.append((last[:-1], match))
    return words


def _fitting(word: str, width: int, font: _Font) -> list[str]:
    """Return `word`, cut where it alone is wider than a line."""
    if font.getlength(word.rstrip()) <= width:
        return [word]
    cut, piece = [], ""
    for character in word:
        if piece and font.getlength(piece + character) > width:
            cut.append(piece)
            piece = ""
        piece += character
    return [*cut, piece]


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[Sequence[_Word]],
    font: _Font,
    ink: str,
) -> None:
    for row, line in enumerate(lines):
        x, y = float(corner[0]), corner[1] + row * _LINE
        for word, match in line:
            if match:
                end = x + font.getlength(word.rstrip())
                draw.rectangle((x - 1, y, end + 1, y + _LINE - 2), fill=_MARK)
            draw.text((x, y), word, fill=ink, font=font)
            x += font.getlength(word)
