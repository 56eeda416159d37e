"""Images shown in the terminal: kitty's and iTerm2's ways where they are known, else half blocks.

The escape sequences are those of https://sw.kovidgoyal.net/kitty/graphics-protocol and
https://iterm2.com/documentation-images.html.
"""

import base64
import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from finetune.images.source import ImageSource

ROWS = 8
_PIXELS = 160
_KITTY_BYTES = 4096
_HALF_BLOCK_WIDTH = 32


def preview(source: "ImageSource", environment: Mapping[str, str] | None = None) -> str:
    """Return what makes the terminal show the image; "" for one that cannot be read."""
    from finetune.images.thumbnails import Cell, thumbnail  # light path: Pillow

    values = os.environ if environment is None else environment
    image = thumbnail(Cell(source, ""), (_PIXELS, _PIXELS))
    if isinstance(image, str):
        return ""
    way = _way(values)
    if way == "kitty":
        return _kitty(_png(image))
    return _iterm(_png(image)) if way == "iterm" else _half_blocks(image)


def _way(values: Mapping[str, str]) -> str:
    program = values.get("TERM_PROGRAM", "")
    if "kitty" in values.get("TERM", "") or values.get("KITTY_WINDOW_ID") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or values.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return ""


def _png(image: "Image") -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _kitty(png: bytes) -> str:
    data = base64.standard_b64encode(png).decode()
    parts = [data[start : start + _KITTY_BYTES] for start in range(0, len(data), _KITTY_BYTES)]
    shown = []
    for number, part in enumerate(parts):
        head = f"a=T,f=100,r={ROWS}," if number == 0 else ""
        more = int(number + 1 < len(parts))
        shown.append(f"\x1b_G{head}m={more};{part}\x1b\\")
    return "".join(shown)


def _iterm(png: bytes) -> str:
    data = base64.standard_b64encode(png).decode()
    size = f"size={len(png)};height={ROWS};preserveAspectRatio=1;inline=1"
    return f"\x1b]1337;File={size}:{data}\x07"


def _half_blocks(image: "Image") -> str:
    """Two pixels a character, one above the other, in 24-bit colours."""
    width = _HALF_BLOCK_WIDTH
    height = max(2, min(2 * ROWS, round(width * image.height / image.width) // 2 * 2))
    width = max(1, min(width, round(height * image.width / image.height)))
    small = image.convert("RGB").resize((width, height))
    lines = []
    for row in range(0, height, 2):
        cells = []
        for column in range(width):
            upper, lower = (_rgb(small, column, row + half) for half in (0, 1))
            cells.append(f"\x1b[38;2;{upper}m\x1b[48;2;{lower}m▀")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _rgb(image: "Image", column: int, row: int) -> str:
    pixel = image.getpixel((column, row))
    assert isinstance(pixel, tuple)
    return ";".join(str(int(value)) for value in pixel[:3])
