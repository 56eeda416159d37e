"""A heat map: the cosine of each part of an image with a query, its peak and its boxes."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from finetune.arrays import Bools, Float32
from finetune.images.pixel_box import PixelBox

# How far from the weakest to the strongest cell a cell must reach to count for a box.
BOX_LEVEL = 0.5


@dataclass(frozen=True, slots=True)
class FoundBox:
    """A part of an image that answers a query.

    Attributes:
        box: Around connected cells of the heat map, in pixels.
        cosine: Of the strongest of these cells.
    """

    box: PixelBox
    cosine: float


@dataclass(frozen=True, slots=True)
class Peak:
    """The point of an image that answers a query most strongly, in pixels."""

    x: float
    y: float
    cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """How strongly each part of an image answers a query.

    Attributes:
        cosines: float32[rows, columns], of cells of equal size from the image's upper left.
        width, height: Of the upright image, in pixels.
        method: How it was made, one of `clipsearch.localization.methods.METHODS`.
        notes: What a user should know of how it was made.
    """

    cosines: Float32
    width: int
    height: int
    method: str
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> Peak:
        """Where the cosine is highest: the middle of the cells that are equally so and touch."""
        top = self.cosines.max()
        cells = next(_connected(self.cosines == top))
        rows, columns = np.array(cells, np.float64).T
        row_height, column_width = self._cell
        x = (float(columns.mean()) + 0.5) * column_width
        return Peak(x, (float(rows.mean()) + 0.5) * row_height, float(top))

    @property
    def boxes(self) -> tuple[FoundBox, ...]:
        """Boxes around connected cells of at least BOX_LEVEL, the strongest first.

        There are none where all cells are alike.
        """
        weakest, strongest = float(self.cosines.min()), float(self.cosines.max())
        if not strongest > weakest:
            return ()
        level = weakest + BOX_LEVEL * (strongest - weakest)
        found = [self._box(cells) for cells in _connected(self.cosines >= level)]
        return tuple(sorted(found, key=lambda each: -each.cosine))

    def to_json(self) -> dict[str, Any]:
        """Return everything as what JSON can hold; pixels count from the image's upper left."""
        peak = self.peak
        return {
            "method": self.method,
            "width": self.width,
            "height": self.height,
            "grid": [[float(cosine) for cosine in row] for row in self.cosines + np.float32(0)],
            "peak": {"x": peak.x, "y": peak.y, "cosine": peak.cosine},
            "boxes": [asdict(each.box) | {"cosine": each.cosine} for each in self.boxes],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        cosines = np.array(values["grid"], np.float32)
        kept = {name: values[name] for name in ("width", "height", "method")}
        return cls(cosines, notes=tuple(values["notes"]), **kept)

    @property
    def _cell(self) -> tuple[float, float]:
        rows, columns = self.cosines.shape
        return self.height / rows, self.width / columns

    def _box(self, cells: list[tuple[int, int]]) -> FoundBox:
        rows, columns = [row for row, _ in cells], [column for _, column in cells]
        row_height, column_width = self._cell
        left, top = int(min(columns) * column_width), int(min(rows) * row_height)
        right = max(left + 1, round((max(columns) + 1) * column_width))
        bottom = max(top + 1, round((max(rows) + 1) * row_height))
        strongest = max(float(self.cosines[cell]) for cell in cells)
        return FoundBox(PixelBox(left, top, right - left, bottom - top), strongest)


def _connected(chosen: Bools) -> Iterator[list[tuple[int, int]]]:
    """Yield the chosen cells in groups of those that touch along an edge."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(chosen), strict=True)}
    while left:
        reached = [min(left)]
        left.remove(reached[0])
        for row, column in reached:
            for down, along in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                if (near := (row + down, column + along)) in left:
                    left.remove(near)
                    reached.append(near)
        yield reached
