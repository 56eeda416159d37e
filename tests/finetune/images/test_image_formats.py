"""Which pictures are read, against Pillow's own list; and HEIC through pillow-heif."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from finetune.errors import ImageError
from finetune.images import formats as image_formats
from finetune.images.formats import (
    FORMATS,
    HEIC_SUFFIXES,
    image_suffixes,
    suffix_of_content,
    why_not_read,
)
from finetune.images.open import open_image

# Drawings, envelopes, headers without a decoder, a format that leaves Pillow, one read wrongly.
NO_RASTERS = {
    "EPS",
    "WMF",
    "BUFR",
    "GRIB",
    "HDF5",
    "MPEG",
    "IPTC",
    "PDF",
    "PALM",
    "IM",
    "FITS",
    "HEIF",
}


@pytest.fixture(scope="module")
def registered() -> dict[str, str]:
    Image.init()
    return Image.registered_extensions()


def test_every_suffix_that_pillow_can_decode_is_scanned(registered):
    # A MPO is a JPEG with several pictures, which the JPEG plugin opens.
    expected = {
        suffix for suffix, kind in registered.items() if kind not in NO_RASTERS and kind != "HEIF"
    }
    suffixes = image_suffixes()
    assert set(suffixes) - set(HEIC_SUFFIXES) == expected
    assert len(set(suffixes)) == len(suffixes)
    assert set(FORMATS) == {registered[suffix] for suffix in expected} - {"MPO"}


def test_what_is_read_is_not_called_unread_and_the_other_way_round(registered):
    assert not [suffix for suffix in image_suffixes() if why_not_read(suffix) is not None]
    for suffix in (".svg", ".eps", ".nef", ".jxl"):
        assert why_not_read(suffix)
    for suffix in (".txt", ".json", ".mp4", ""):
        assert why_not_read(suffix) is None


@pytest.mark.parametrize("kind", ["PCX", "SGI", "DDS", "DIB", "QOI", "ICNS"])
def test_more_formats(kind):
    image = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    stored = io.BytesIO()
    image.save(stored, kind)
    found = np.asarray(open_image(stored.getvalue())).astype(int)
    assert found.shape[2] == 3 and np.abs(found.mean() - np.asarray(image).mean()) < 12


@pytest.mark.parametrize("kind", ["XBM", "MSP"])
def test_formats_of_black_and_white(kind):
    image = Image.radial_gradient("L").convert("1")
    stored = io.BytesIO()
    image.save(stored, kind)
    found = np.asarray(open_image(stored.getvalue()).convert("1"))
    np.testing.assert_array_equal(found, np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_a_picture_is_known_by_its_first_bytes(kind, registered):
    stored = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stored, kind)
    suffix = suffix_of_content(stored.getvalue())
    assert suffix is not None and registered[suffix] == kind


def test_other_files_are_not_taken_for_pictures():
    for head in (b"", b"BM text", b"caption", b"%PDF-1.7", b"<html><svg>", b"{}", b"RIFF....WAVE"):
        assert suffix_of_content(head) is None
    assert suffix_of_content(b'<?xml version="1.0"?><svg/>') == ".svg"


# HEIC


def heic(size: tuple[int, int] = (60, 40), **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    stored = io.BytesIO()
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    image.putpixel((0, 0), (255, 255, 255))
    image.save(stored, "HEIF", quality=95, **options)
    return stored.getvalue()


def test_heic_comes_upright_and_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, turned = open_image(heic()), open_image(heic(exif=exif.tobytes()))
    assert (upright.size, turned.size) == ((60, 40), (40, 60))
    expected = np.asarray(upright.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(turned).astype(int) - expected).mean() < 4


def test_heic_is_read_by_a_process_that_has_read_no_other(tmp_path):
    path = tmp_path / "phone.HEIC"
    path.write_bytes(heic())
    code = "from finetune.images import open_image; from pathlib import Path;"
    code += f" print(open_image(Path({str(path)!r})).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(60, 40)"


def test_heic_without_pillow_heif_says_what_to_install(monkeypatch):
    data = heic()
    monkeypatch.setattr(image_formats, "reads_heic", lambda: False)
    with pytest.raises(ImageError, match=r"install the extra heic"):
        open_image(data)
    assert ".heic" not in image_suffixes()
    assert "install the extra heic" in str(why_not_read(".heic"))


def test_damaged_heic():
    data = heic()
    for end in (20, 100, len(data) // 2, len(data) - 10):
        with pytest.raises(ImageError, match="damaged"):
            open_image(data[:end])
