"""The radius filter: near=48.1,11.6,5km."""

import math
import re
from collections.abc import Sequence

from clipsearch.engine import IndexInfo
from clipsearch.filtering import LATITUDE, LONGITUDE, NearFilter
from clipsearch.geography import GREATEST_LATITUDE, MOST_METERS
from finetune.errors import UsageError
from finetune.text.numerals import read_number

NEAR = "near"
_METERS = {"m": 1.0, "km": 1000.0, "mi": 1609.344}
_RADIUS = re.compile(r"\s*(\S+?)\s*(m|km|mi)\s*", re.IGNORECASE)


def is_near(column: str, info: IndexInfo) -> bool:
    """Return whether a filter is by radius; a column of that name comes first."""
    return column == NEAR and NEAR not in (*info.tag_columns, *info.compared_columns)


def near_filter(text: str, parts: Sequence[object], info: IndexInfo) -> NearFilter:
    """Read latitude, longitude and radius; `text` is the filter, for messages.

    Raises UsageError for what is none, and where the index has no places.
    """
    check_places(text, info)
    numbers = [read_number(str(part)) for part in parts[:2]]
    radius = _RADIUS.fullmatch(str(parts[2])) if len(parts) == 3 else None
    meters = read_number(radius[1]) if radius is not None else None
    if radius is None or None in (*numbers, meters):
        raise UsageError(
            f"the filter {text!r} is no radius; write {NEAR}=latitude,longitude,radius with m, km"
            f" or mi, as {NEAR}=48.1,11.6,5km"
        )
    latitude, longitude, length = (float(each or 0) for each in (*numbers, meters))
    found = NearFilter(latitude, longitude, length * _METERS[radius[2].lower()])
    check_near(text, found)
    return found


def check_places(text: str, info: IndexInfo) -> None:
    """Raise UsageError unless the index has places."""
    if not {LATITUDE, LONGITUDE} <= set(info.number_columns):
        raise UsageError(
            f"the filter {text!r} needs the columns {LATITUDE} and {LONGITUDE} as numbers, and the"
            f" index has no such: feed a manifest that has them, or pictures with --exif"
        )


def check_near(text: str, near: NearFilter) -> None:
    """Raise UsageError for a place or radius out of range."""
    if not abs(near.latitude) <= GREATEST_LATITUDE or not abs(near.longitude) <= 180:
        raise UsageError(
            f"the filter {text!r} names no place: a latitude is -90 to 90, a longitude -180 to 180,"
            f" in this order"
        )
    if not (math.isfinite(near.meters) and 0 < near.meters <= MOST_METERS):
        raise UsageError(
            f"the filter {text!r}: a radius is above 0 and at most {MOST_METERS / 1000:,.0f} km"
        )


def near_text(near: NearFilter) -> str:
    """Write the filter as `near_filter` reads it."""
    return f"{NEAR}={near.latitude!r},{near.longitude!r},{near.meters!r}m"
