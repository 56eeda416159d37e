"""What an image tower takes: the size, how it is come by, and the scale of its values."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

Resize = Literal["shortest-edge", "exact"]
Transparency = Literal["white", "dropped"]
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
        transparency: What a transparent pixel shows: "white" behind it, as in transformers 5, or
            the colour that the file has there (alpha is "dropped", as in OpenCLIP).
    """

    height: int
    width: int
    resize: Resize
    resize_to: int
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    transparency: Transparency = "white"


def with_transparency(preprocessing: Preprocessing, word: str) -> Preprocessing:
    """Return the same with another `transparency`. Raises KeyError for a word that is none."""
    words: dict[str, Transparency] = {known: known for known in get_args(Transparency)}
    return replace(preprocessing, transparency=words[word])
