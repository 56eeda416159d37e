"""Filters: what a document must have to be found, as engines are told."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TagFilter:
    """Keep documents whose tag `column` is one of `values`, as `clipsearch.folding` compares."""

    column: str
    values: tuple[str, ...]
    exclude: bool = False


@dataclass(frozen=True, slots=True)
class NumberFilter:
    """Keep documents whose number `column` lies in the range; None leaves that side open.

    Of a date the number is its seconds (`finetune.text.dates`).
    """

    column: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False


LATITUDE, LONGITUDE = "latitude", "longitude"
FOLDER = "folder"
"""The tag of the folder below the fed one that an image lies in, as `beach/2019`."""


@dataclass(frozen=True, slots=True)
class NearFilter:
    """Keep documents within a radius of a place, by their numbers `latitude` and `longitude`.

    See `clipsearch.geography`.

    Attributes:
        latitude, longitude: Degrees, north and east positive; -180 to 180.
        meters: The radius, above 0.
    """

    latitude: float
    longitude: float
    meters: float


Filter = TagFilter | NumberFilter | NearFilter
