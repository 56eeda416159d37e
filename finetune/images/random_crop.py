"""Where an image is cropped before it is resized, as training may ask for.

Its size is known only where it is decoded, so what chance decided travels there. Standard library
alone.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """A crop of an image of any size, and a crop within that one.

    The second is that of torchvision's and OpenCLIP's RandomResizedCrop, but that a ratio which
    would not fit is brought nearer to the image's own instead of being drawn again.

    Attributes:
        pixels: Sides of the first crop, at most the image's; 0 takes `share` of its sides.
        share: Of width and height, 0 to 1; 1 takes the whole.
        place: From left and top of the first crop, -1 to 1, of what there is to choose.
        area: Of the second within the first, 0 to 1; None takes the whole.
        log_ratio: Logarithm of the second's width to its height.
        place_within: As `place`, of the second within the first.
        resample: Pillow's name of the filter that brings it to the tower's size.
    """

    pixels: int = 0
    share: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)
    area: float | None = None
    log_ratio: float = 0.0
    place_within: tuple[float, float] = (0.0, 0.0)
    resample: str

    @property
    def is_stretched(self) -> bool:
        """Whether it becomes the tower's shape whatever its own, as a RandomResizedCrop does."""
        return self.area is not None

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in pixels of an image of this width and height."""
        outer = [min(self.pixels, side) if self.pixels else self.share * side for side in size]
        starts = [
            (side - part) * (1 + place) / 2
            for side, part, place in zip(size, outer, self.place, strict=True)
        ]
        if self.area is not None:
            ratio = math.exp(self.log_ratio) * outer[1] / outer[0]
            # at these two the crop is as wide, or as high, as the first one
            ratio = min(max(ratio, self.area), 1 / self.area)
            inner = outer[0] * math.sqrt(self.area * ratio), outer[1] * math.sqrt(self.area / ratio)
            starts = [
                start + max(whole - part, 0) * (1 + place) / 2
                for start, whole, part, place in zip(
                    starts, outer, inner, self.place_within, strict=True
                )
            ]
            outer = list(inner)
        # sums of shares may end a hair beyond the image, which Pillow refuses
        ends = [
            min(start + part, side) for start, part, side in zip(starts, outer, size, strict=True)
        ]
        return starts[0], starts[1], ends[0], ends[1]
