"""The contact sheet of augmented pictures, looked at through its HTML and its PNG."""

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.image_augmentation import AugmentConfig
from finetune.data.augmentation_sheet import write_augmentation_sheet
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.errors import UsageError
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

PREPROCESSING = Preprocessing(
    height=32,
    width=32,
    resize="shortest-edge",
    resize_to=32,
    resample="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
FLIP = AugmentConfig(horizontal_flip=1.0)
AS_THEY_ARE = CaptionAugmentConfig()


@pytest.fixture
def data(tmp_path: Path) -> CaptionedImages:
    """Left half red, right half blue; one file is no picture."""
    rows = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        if number == 2:
            path.write_text("no picture")
        else:
            picture = Image.new("RGB", (32, 32), "blue")
            picture.paste("red", (0, 0, 16, 32))
            picture.save(path)
        rows.append((path.name, ImageSource(path), (f"first of {number}", f"second of {number}")))
    return captioned_images(rows)


def cells(html: str) -> list[tuple[np.ndarray | None, str]]:
    """Pixels of the left edge's middle, and all text, of each cell."""
    found = []
    for figure in re.findall(r"<figure>.*?</figure>", html, re.DOTALL):
        picture = re.search(r"base64,([^\"]+)", figure)
        pixels = None
        if picture:
            image = Image.open(io.BytesIO(base64.b64decode(picture[1])))
            pixels = np.asarray(image)[image.height // 2, 8].astype(int)
        found.append((pixels, unescape(re.sub(r"<[^>]+>", " ", figure))))
    return found


def test_a_row_is_a_picture_and_its_variations(data: CaptionedImages, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    write_augmentation_sheet(sheet, data, PREPROCESSING, FLIP, AS_THEY_ARE, variants=3)
    html = sheet.read_text()
    assert "Augmentation: horizontal_flip=1" in html
    found = cells(html)
    assert len(found) == 4 * 4
    for number in (0, 1, 3):
        (original, title), *varied = found[4 * number : 4 * number + 4]
        assert f"{number}.png" in title
        assert f"first of {number}" in title
        assert original[0] > 200 > 60 > original[2], "the left edge is red"
        for pixels, _ in varied:
            assert pixels[2] > 200 > 60 > pixels[0], "mirrored, it is blue"
        # several captions of an image come one after the other
        texts = {word for _, text in varied for word in ("first", "second") if word in text}
        assert texts == {"first", "second"}
    broken, text = found[8]
    assert broken is None
    assert "2.png" in text
    assert "holds text" in text


def test_captions_are_varied_too(data: CaptionedImages, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    captions = CaptionAugmentConfig(punctuation=1.0)
    write_augmentation_sheet(sheet, data, PREPROCESSING, AugmentConfig(), captions, variants=1)
    assert re.search(r"(first|second) of 0\.", cells(sheet.read_text())[1][1])


def test_png(data: CaptionedImages, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    write_augmentation_sheet(sheet, data, PREPROCESSING, FLIP, AS_THEY_ARE, images=2)
    with Image.open(sheet) as image:
        assert image.width > 6 * 240
        assert image.height < 4 * 260


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    data = captioned_images([("0", ImageSource(tmp_path / "0.png"), ("alone",))])
    with pytest.raises(UsageError, match="nothing to show"):
        write_augmentation_sheet(
            tmp_path / "sheet.png", data, PREPROCESSING, AugmentConfig(), AS_THEY_ARE
        )
