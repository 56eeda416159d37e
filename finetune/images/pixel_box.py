"""A part of an image, in pixels, as people write it: x,y,width,height."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_NUMBERS = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class PixelBox:
    """A rectangle of whole pixels in an upright image.

    Attributes:
        x, y: Of its upper left corner, counted from the image's.
        width, height: At least 1.
    """

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    @property
    def right(self) -> int:
        """The first column of pixels that is no longer in it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row of pixels that is no longer in it."""
        return self.y + self.height

    def cut_from(self, image: "Image", name: str) -> "Image":
        """Return this part of an upright image.

        Raises UsageError, which calls the image `name`, where the box is empty or reaches outside.
        """
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise UsageError(f"the box {self} of {name} is empty or begins outside; {_HOW}")
        if self.right > image.width or self.bottom > image.height:
            raise UsageError(
                f"the box {self} reaches outside of {name}, which has {image.width} x"
                f" {image.height} pixels; {_HOW}"
            )
        return image.crop((self.x, self.y, self.right, self.bottom))


_HOW = "give x,y,width,height in pixels from the upper left"


def parse_pixel_box(text: str) -> PixelBox:
    """Return the box that `text` says. Raises UsageError unless it is four whole numbers."""
    found = _NUMBERS.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no box; {_HOW}, as 10,20,100,80")
    box = PixelBox(*(int(number) for number in found.groups()))
    if box.width < 1 or box.height < 1:
        raise UsageError(f"the box {box} is empty; {_HOW}")
    return box
