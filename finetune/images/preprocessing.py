"""What an image tower takes: the size, how it is come by, and the scale of its values."""

from dataclasses import dataclass
from typing import Literal

Resize = Literal["shortest-edge", "exact"]
RESAMPLE_NAMES = ("bicubic", "bilinear", "lanczos", "nearest")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a decoded RGB image to pixel values; one for training, feed and query.

    Attributes:
        height, width: Of the tower's input, in pixels.
        resize: "shortest-edge" resizes the short side to `resize_to` and crops the centre (CLIP);
            "exact" resizes to (height, width) whatever the shape (SigLIP).
        resize_to: Pixels of the short side, for "shortest-edge".
        resample: Pillow's name of the filter, of RESAMPLE_NAMES.
        mean, std: A channel each, of values in 0..1.
    """

    height: int
    width: int
    resize: Resize
    resize_to: int
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
