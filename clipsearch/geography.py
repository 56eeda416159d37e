"""Places on the Earth: how far apart they are, and boxes of degrees around a disc.

Distances are those of great circles on a sphere of the Earth's mean radius (haversine; Sinnott,
"Virtues of the Haversine", 1984): within about 0.5 % of those on the ellipsoid. A place has a
latitude from -90 to 90 and a longitude from -180 to 360, so that both customs of counting it are
understood; what lies outside is no place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from clipsearch.filtering import NearFilter

EARTH_RADIUS_METERS = 6_371_008.8
MOST_METERS = 1e7
"""Of a radius: about a quarter of the Earth's circumference."""
LEAST_LONGITUDE, GREATEST_LONGITUDE = -180.0, 360.0
GREATEST_LATITUDE = 90.0

# In degrees, about a metre: far more than rounding takes away near the poles.
_MARGIN = 1e-5
_Degrees = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """Degrees between these, both included."""

    south: float
    north: float
    west: float
    east: float


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes that say of most places whether they are within a radius.

    Attributes:
        inner: Whatever lies in one of these is within it.
        edge: What lies in none of `inner` and none of these is not.
    """

    inner: tuple[Box, ...]
    edge: tuple[Box, ...]


def are_near(latitudes: _Degrees, longitudes: _Degrees, near: NearFilter) -> npt.NDArray[np.bool_]:
    """Return which places are within the radius, bool[n]; NaN is none."""
    with np.errstate(invalid="ignore"):
        are_places = (np.abs(latitudes) <= GREATEST_LATITUDE) & (
            (longitudes >= LEAST_LONGITUDE) & (longitudes <= GREATEST_LONGITUDE)
        )
        return are_places & (_meters(latitudes, longitudes, near) <= near.meters)


def _meters(latitudes: _Degrees, longitudes: _Degrees, near: NearFilter) -> _Degrees:
    here, there = math.radians(near.latitude), np.radians(latitudes)
    across = np.sin(np.radians(longitudes - near.longitude) / 2) ** 2
    along = np.sin((there - here) / 2) ** 2
    share = np.clip(along + math.cos(here) * np.cos(there) * across, 0.0, 1.0)
    meters: _Degrees = 2 * EARTH_RADIUS_METERS * np.arcsin(np.sqrt(share))
    return meters


def boxes_around(near: NearFilter, strips: int) -> Boxes:
    """Return boxes for a radius, one and its edge in each of so many strips of latitude.

    The edge has about 2.5 / `strips` of the disc's area.
    """
    reach = math.degrees(near.meters / EARTH_RADIUS_METERS)
    south = max(near.latitude - reach - _MARGIN, -GREATEST_LATITUDE)
    north = min(near.latitude + reach + _MARGIN, GREATEST_LATITUDE)
    bounds = [south + (north - south) * number / strips for number in range(strips)] + [north]
    inner: list[Box] = []
    edge: list[Box] = []
    for low, high in pairwise(bounds):
        least, most = _half_widths(near, low, high)
        least, most = least - _MARGIN, most + _MARGIN
        if most <= 0:
            continue
        if least <= 0:
            edge += _turned(near, low, high, -most, most)
            continue
        inner += _turned(near, low, high, -least, least)
        if least < 180:
            edge += _turned(near, low, high, -most, -least)
            edge += _turned(near, low, high, least, most)
    return Boxes(tuple(inner), tuple(edge))


def _half_widths(near: NearFilter, south: float, north: float) -> tuple[float, float]:
    """Return the least and the greatest half width of the disc between two latitudes, in degrees.

    Towards either side of its widest latitude a disc of at most a quarter of the Earth's
    circumference only becomes narrower, so that the ends and that latitude decide.
    """
    widths = [_half_width(near, south), _half_width(near, north)]
    angle = near.meters / EARTH_RADIUS_METERS
    sine = math.sin(math.radians(near.latitude)) / max(math.cos(angle), 1e-300)
    widest = math.degrees(math.asin(sine)) if abs(sine) <= 1 else math.copysign(90, sine)
    inside = min(max(widest, south), north)
    return min(widths), max(*widths, _half_width(near, inside))


def _half_width(near: NearFilter, latitude: float) -> float:
    here, there = math.radians(near.latitude), math.radians(latitude)
    angle = near.meters / EARTH_RADIUS_METERS
    left = math.sin(angle / 2) ** 2 - math.sin((there - here) / 2) ** 2
    if left < 0:
        return -1.0
    around = math.cos(here) * math.cos(there)
    if around <= 0 or left >= around:
        return 180.0 + 2 * _MARGIN
    return math.degrees(2 * math.asin(math.sqrt(left / around)))


def _turned(
    near: NearFilter, south: float, north: float, west: float, east: float
) -> Iterator[Box]:
    """Yield the box once for each way of counting longitude, `west` and `east` from the middle."""
    if east - west >= 360:
        yield Box(south, north, LEAST_LONGITUDE, GREATEST_LONGITUDE)
        return
    for turn in (-360.0, 0.0, 360.0):
        low = max(near.longitude + west + turn, LEAST_LONGITUDE)
        high = min(near.longitude + east + turn, GREATEST_LONGITUDE)
        if low <= high:
            yield Box(south, north, low, high)
