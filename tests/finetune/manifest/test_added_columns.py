"""Folders and EXIF as columns: what was written with Pillow is read again."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from finetune.images.exif import exif_facts
from finetune.images.source import ImageSource
from finetune.manifest.added_columns import AddedColumns, FolderTags
from finetune.manifest.manifest import Manifest

BASE, GPS = ExifTags.Base, ExifTags.GPS


def picture(
    path: Path,
    image: dict[int, Any] | None = None,
    original: dict[int, Any] | None = None,
    places: dict[int, Any] | None = None,
) -> Path:
    if path.suffix == ".tiff":  # Pillow leaves directories within out of a TIFF's `exif`
        tags = ImageFileDirectory_v2()
        for tag, value in (image or {}).items():
            tags[int(tag)] = value
        tags[ExifTags.IFD.Exif] = {int(tag): value for tag, value in (original or {}).items()}
        tags[ExifTags.IFD.GPSInfo] = {int(tag): value for tag, value in (places or {}).items()}
        Image.new("RGB", (8, 8), "red").save(path, tiffinfo=tags)
        return path
    exif = Image.Exif()
    exif.update(image or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(original or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(places or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, exif=exif)
    return path


def degrees(value: float) -> tuple[IFDRational, ...]:
    whole = Fraction(str(abs(value)))
    minutes = (whole - int(whole)) * 60
    seconds = (minutes - int(minutes)) * 60
    return (
        IFDRational(int(whole), 1),
        IFDRational(int(minutes), 1),
        IFDRational(seconds.numerator, seconds.denominator),
    )


def placed(latitude: float, longitude: float) -> dict[int, Any]:
    return {
        GPS.GPSLatitudeRef: "S" if latitude < 0 else "N",
        GPS.GPSLatitude: degrees(latitude),
        GPS.GPSLongitudeRef: "W" if longitude < 0 else "E",
        GPS.GPSLongitude: degrees(longitude),
    }


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_what_a_camera_wrote(tmp_path: Path, suffix: str) -> None:
    path = picture(
        tmp_path / f"a.{suffix}",
        {BASE.Make: "Canon", BASE.Model: "Canon EOS 5D", BASE.DateTime: "2021:01:01 00:00:00"},
        {BASE.DateTimeOriginal: "2019:06:01 12:30:05", 0x9011: "+02:00"},
        placed(48.1374, -11.5755),
    )
    assert exif_facts(ImageSource(path)) == {
        "taken": "2019-06-01T12:30:05+02:00",
        "camera": "Canon EOS 5D",
        "latitude": 48.1374,
        "longitude": -11.5755,
    }


@pytest.mark.parametrize(
    ("image", "original", "places", "expected"),
    [
        ({}, {}, {}, {}),
        ({BASE.DateTime: "2021:01:02 03:04:05"}, {}, {}, {"taken": "2021-01-02T03:04:05"}),
        ({BASE.DateTime: "0000:00:00 00:00:00"}, {}, {}, {}),
        ({BASE.DateTime: "yesterday", BASE.Make: "  "}, {}, {}, {}),
        ({BASE.Make: "Nokia\0", BASE.Model: "N8 "}, {}, {}, {"camera": "Nokia N8"}),
        ({BASE.Make: "Leica"}, {}, {}, {"camera": "Leica"}),
        ({}, {}, placed(91, 5), {}),
        ({}, {}, {GPS.GPSLatitude: degrees(5)}, {}),
        ({}, {}, {**placed(5, 5), GPS.GPSLatitude: (IFDRational(0, 0),) * 3}, {}),
        ({}, {}, placed(-90, 180), {"latitude": -90, "longitude": 180}),
    ],
)
def test_what_is_missing_or_none_is_left_out(
    tmp_path: Path,
    image: dict[int, Any],
    original: dict[int, Any],
    places: dict[int, Any],
    expected: dict[str, Any],
) -> None:
    path = picture(tmp_path / "a.jpg", image, original, places)
    assert exif_facts(ImageSource(path)) == expected


def test_a_damaged_block_is_none(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", {BASE.Model: "x" * 50}, {}, placed(5, 5))
    data = path.read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in chance.integers(0, 200, 10):
            broken[place] = chance.integers(256)
        path.write_bytes(broken[: chance.integers(1, len(broken))])
        assert set(exif_facts(ImageSource(path))) <= {"taken", "camera", "latitude", "longitude"}
    assert exif_facts(ImageSource(tmp_path / "none.jpg")) == {}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("none", [{}, {}, {}]),
        ("path", [{}, {"folder": "b"}, {"folder": "b/2019 é"}]),
        ("levels", [{}, {"folder": "b", "folder_1": "b"},
                    {"folder": "b/2019 é", "folder_1": "b", "folder_2": "2019 é"}]),
    ],
)  # fmt: skip
def test_folders_are_tags(
    tmp_path: Path, folders: FolderTags, expected: list[dict[str, str]]
) -> None:
    for name in ("a.jpg", "b/c.jpg", "b/2019 e\u0301/d.jpg"):
        picture(tmp_path / name)
    with Manifest.open(tmp_path, added=AddedColumns(folders)) as manifest:
        found = {record.id: dict(record.metadata) for record in manifest.records()}
    assert [found[name] for name in ("a.jpg", "b/c.jpg", "b/2019 é/d.jpg")] == expected


def test_the_manifests_own_columns_stand(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "a.jpg", {BASE.Model: "N8", BASE.DateTime: "2021:01:02 03:04:05"})
    table = tmp_path / "m.csv"
    table.write_text("image,caption,camera\nb/a.jpg,x,mine\nb/none.jpg,x,mine\n")
    with Manifest.open(table, added=AddedColumns("levels", exif=True)) as manifest:
        (record,) = manifest.records()
        assert manifest.columns() == {"taken": "date", "camera": "tag"}
    assert record.metadata == {"taken": "2021-01-02T03:04:05", "camera": "mine"}
