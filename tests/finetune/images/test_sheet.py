import base64
import io
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageFont

from clipsearch.engine import IndexInfo
from clipsearch.search.images import ImageFolders
from finetune.console import printable
from finetune.errors import ClipsearchError, UsageError
from finetune.images import contact_sheet_png as sheet_png
from finetune.images.contact_sheet import MAX_PNG_CELLS, write_sheet
from finetune.images.thumbnails import Cell

HOSTILE = '<script>alert("x")</script> & \x1b[31mred\u202e'


class Outline(HTMLParser):
    """What a browser would see: tags, attributes, and text by the tag that holds it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.marked: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "mark":
            self.marked.append(data)
            self.tags.append("")
        self.text += data


@pytest.fixture
def red(tmp_path: Path) -> Path:
    Image.new("RGB", (600, 300), (200, 0, 0)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def inlined(outline: Outline) -> list[Image.Image]:
    sources = [value for name, value in outline.attributes if name == "src" and value]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    data = [base64.b64decode(source.partition(",")[2]) for source in sources]
    return [Image.open(io.BytesIO(one)) for one in data]


def test_html_needs_nothing_else(tmp_path: Path, red: Path) -> None:
    cells = [
        Cell(red, "1. red.png", "two dogs and a dog", ((4, 8), (15, 18))),
        Cell(red.read_bytes(), "2. bytes"),
        Cell(Image.new("RGBA", (10, 20)), "3. Pillow"),
        Cell(None, "4. gone", missing="gone.png not found"),
    ]
    write_sheet(tmp_path / "out.html", cells, "dogs")
    html = (tmp_path / "out.html").read_text("utf-8")
    outline = Outline(html)
    assert [image.size for image in inlined(outline)] == [(256, 128), (256, 128), (40, 80)]
    assert inlined(outline)[0].getpixel((5, 5))[0] == pytest.approx(200, abs=4)
    assert outline.marked == ["dogs", "dog"]
    assert "gone.png not found" in outline.text
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import", html)


def test_html_escapes_everything(tmp_path: Path, red: Path) -> None:
    cells = [Cell(red, HOSTILE, HOSTILE, ((1, 7),)), Cell(None, "x", missing=HOSTILE)]
    write_sheet(tmp_path / "out.html", cells, HOSTILE)
    html = (tmp_path / "out.html").read_text("utf-8")
    outline = Outline(html)
    assert "script" not in outline.tags
    assert outline.marked == ["script"]
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert outline.text.count('<script>alert("x")</script> &') == 5  # title, heading, 3 in cells


def test_png_is_a_grid_of_the_pictures(tmp_path: Path, red: Path) -> None:
    text = "dogs " * 60 + "x" * 300 + " 日本語"
    cells = [Cell(red, f"{number}. title", text, ((0, 4),)) for number in range(7)]
    write_sheet(tmp_path / "out.PNG", cells, "dogs " * 100)
    sheet = Image.open(tmp_path / "out.PNG").convert("RGB")
    colors = {color: count for count, color in sheet.getcolors(1 << 24)}
    assert colors[(200, 0, 0)] == 7 * 240 * 120
    assert colors[(255, 216, 77)] > 7 * 100  # the marks
    # Nothing is drawn beyond a cell: the margins of the sheet stay blank.
    right = sheet.crop((sheet.width - 4, 0, sheet.width, sheet.height))
    assert ImageChops.difference(right, Image.new("RGB", right.size, "white")).getbbox() is None


def test_pictures_that_cannot_be_shown_are_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    cells = [
        Cell(tmp_path / "missing.jpg", "1"),
        Cell(tmp_path / "broken.jpg", "2"),
        Cell(b"", "3"),
        Cell(Image.new("1", (1, 5000)), "a line"),
    ]
    write_sheet(tmp_path / "out.html", cells, "broken")
    outline = Outline((tmp_path / "out.html").read_text("utf-8"))
    assert "missing.jpg" in outline.text
    assert "broken.jpg" in outline.text
    assert [image.size for image in inlined(outline)] == [(1, 256)]
    write_sheet(tmp_path / "out.png", cells, "broken")
    assert (236, 236, 236) in {color for _, color in Image.open(tmp_path / "out.png").getcolors()}


def test_a_sheet_without_cells(tmp_path: Path) -> None:
    for name in ("out.html", "out.png"):
        write_sheet(tmp_path / name, [], "nothing found")
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("name", ["out.pdf", "out", "missing/out.html"])
def test_refuses_what_it_cannot_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write_sheet(tmp_path / name, [], "x")


def test_too_many_for_a_png(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"write \.html"):
        write_sheet(tmp_path / "out.png", [Cell(None, "")] * (MAX_PNG_CELLS + 1), "x")


def test_a_failed_sheet_leaves_the_old_one(tmp_path: Path) -> None:
    sheet = tmp_path / "out.html"
    sheet.write_text("old")

    class Full:
        def __getitem__(self, position: int) -> Cell:
            if position == 0:
                return Cell(None, "first")
            raise OSError(28, "No space left on device")

        def __len__(self) -> int:
            return 2

    with pytest.raises(ClipsearchError, match="No space left on device"):
        write_sheet(sheet, Full(), "x")
    assert sheet.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_finds_pictures_where_they_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"moved": "moved/a.png", "root": "root/b.png", "inner": "root/images/c.png",
              "here": "here/d.png"}  # fmt: skip
    for number, name in enumerate(places.values()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8)).save(tmp_path / name)
    Image.new("RGB", (99, 8)).save(tmp_path / "root" / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    info = IndexInfo(8, images_root=str(tmp_path / "root"))
    folders = ImageFolders(info, tmp_path / "moved")
    assert folders.find("a.png") == (tmp_path / "moved" / "a.png").resolve()
    assert ImageFolders(info).find("a.png") == (tmp_path / "root" / "a.png").resolve()
    assert folders.find("b.png") is not None
    assert folders.find("c.png") == (tmp_path / "root" / "images" / "c.png").resolve()
    assert folders.find("d.png") == (tmp_path / "here" / "d.png").resolve()
    assert folders.find(str(tmp_path / "root" / "b.png")) is not None
    for nothing in ("", "e.png", "x" * 5000, "nul\0", "."):
        assert folders.find(nothing) is None
        assert folders.source(nothing) is None


def test_finds_pictures_in_shards(tmp_path: Path, red: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(red, "x/0001.png")
        tar.add(red, "./0002.png")
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    folders = ImageFolders(IndexInfo(8, images_root=str(tmp_path)))
    for member in ("s.tar/x/0001.png", "s.tar/0002.png"):
        source = folders.source(member)
        assert source is not None
        assert source.read() == red.read_bytes()
        assert folders.find(member) is None
    for nothing in ("s.tar/0003.png", "broken.tar/a.png", "missing.tar/a.png", "s.tar"):
        assert folders.source(nothing) is None or nothing == "s.tar"


def test_printable_hides_nothing_and_obeys_nothing() -> None:
    assert printable("a\x1b[2Jb\x9bc\x07\x00") == r"a\x1b[2Jb\x9bc\x07\x00"
    assert printable("one\r\n\ttwo") == "one   two"
    assert printable("a\u202eb\u2028c\ud800") == r"a\u202eb\u2028c\ud800"
    assert printable("café 日本 👩‍👩‍👧 ☂️ [red]") == "café 日本 👩‍👩‍👧 ☂️ [red]"


def test_a_long_title_keeps_its_score_and_the_end_of_its_id() -> None:
    font = ImageFont.load_default(13)
    title = "12. 0.8613  images/a-folder-with-a-long-name/orange-star-2-left.png"
    short = sheet_png._one_line(title, 200, font)
    assert font.getlength(short) <= 200
    assert short.startswith("12. 0.8613")
    assert short.endswith("left.png")
    assert sheet_png._one_line("1. 0.5  a.png", 200, font) == "1. 0.5  a.png"
