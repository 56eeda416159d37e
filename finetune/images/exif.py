"""What a camera wrote into an image: when, with what, and where it was taken.

EXIF 2.32 (CIPA DC-008): the date of the original, make and model, and the GPS's degrees. What is
missing, empty or out of range is left out; so is all of a file that cannot be read.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import ExifTags, Image

from finetune.images.source import ImageSource
from finetune.text.dates import date_period

TAKEN, CAMERA, LATITUDE, LONGITUDE = EXIF_COLUMNS = ("taken", "camera", "latitude", "longitude")

# Of other formats Pillow would decode all of the image to look for EXIF at its end.
_AT_THE_BEGINNING = ("JPEG", "MPO", "TIFF", "WEBP", "HEIF", "AVIF")
_FORMATTED = re.compile(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d:\d\d:\d\d)", re.ASCII)
_OFFSET = re.compile(r"[+-]\d\d:\d\d", re.ASCII)
_OFFSET_TIME_ORIGINAL, _OFFSET_TIME = 0x9011, 0x9010
# About a centimetre.
_DEGREE_DIGITS = 7


def exif_facts(source: ImageSource) -> dict[str, str | float]:
    """Return what the image's EXIF says, by EXIF_COLUMNS.

    `taken` is an ISO date and time, with the zone where the camera wrote it; `latitude` and
    `longitude` are degrees, north and east positive.
    """
    try:
        with warnings.catch_warnings(), source.open() as file, Image.open(file) as image:
            warnings.simplefilter("ignore")
            if image.format not in _AT_THE_BEGINNING and "exif" not in image.info:
                return {}
            exif = image.getexif()
            original = exif.get_ifd(ExifTags.IFD.Exif)
            places = exif.get_ifd(ExifTags.IFD.GPSInfo)
            return _facts(dict(exif), dict(original), dict(places))
    except Exception:  # Pillow raises nearly anything for a damaged block
        return {}


def _facts(
    image: Mapping[int, Any], original: Mapping[int, Any], places: Mapping[int, Any]
) -> dict[str, str | float]:
    facts: dict[str, str | float] = {}
    taken = _taken(original.get(ExifTags.Base.DateTimeOriginal), original, _OFFSET_TIME_ORIGINAL)
    taken = taken or _taken(image.get(ExifTags.Base.DateTime), original, _OFFSET_TIME)
    if taken is not None:
        facts[TAKEN] = taken
    make, model = (_text(image.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    camera = model if model.casefold().startswith(make.casefold()) else f"{make} {model}".strip()
    if camera:
        facts[CAMERA] = camera
    latitude = _degrees(places.get(ExifTags.GPS.GPSLatitude), 90)
    longitude = _degrees(places.get(ExifTags.GPS.GPSLongitude), 180)
    if latitude is not None and longitude is not None:
        south = _text(places.get(ExifTags.GPS.GPSLatitudeRef)).upper() == "S"
        west = _text(places.get(ExifTags.GPS.GPSLongitudeRef)).upper() == "W"
        facts[LATITUDE] = -latitude if south else latitude
        facts[LONGITUDE] = -longitude if west else longitude
    return facts


def _taken(value: object, original: Mapping[int, Any], offset_tag: int) -> str | None:
    found = _FORMATTED.match(_text(value))
    if found is None:
        return None
    year, month, day, time = found.groups()
    offset = _text(original.get(offset_tag))
    text = f"{year}-{month}-{day}T{time}{offset if _OFFSET.fullmatch(offset) else ''}"
    return text if date_period(text) is not None else None  # "0000:00:00" is no date


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else ""


def _degrees(value: object, most: int) -> float | None:
    """Return degrees of (degrees, minutes, seconds); None for none, or what no place has."""
    if not isinstance(value, Sequence) or len(value) != 3:
        return None
    degrees, minutes, seconds = (float(each) for each in value)
    found = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(found) or not 0 <= found <= most:
        return None
    return round(found, _DEGREE_DIGITS)
