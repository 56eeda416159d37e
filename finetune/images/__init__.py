"""Images: opened, checked, resized, turned into pixel values. Imports without torch."""

from typing import TYPE_CHECKING

from finetune.public_names import loader

if TYPE_CHECKING:
    from finetune.images.open import open_image
    from finetune.images.pixels import load_pixels, normalize, pixel_values, resize_and_crop
    from finetune.images.preprocessing import Preprocessing
    from finetune.images.source import ImageSource

__all__ = [
    "ImageSource",
    "Preprocessing",
    "load_pixels",
    "normalize",
    "open_image",
    "pixel_values",
    "resize_and_crop",
]

__getattr__ = loader(
    __name__,
    {
        "ImageSource": "finetune.images.source",
        "Preprocessing": "finetune.images.preprocessing",
        "load_pixels": "finetune.images.pixels",
        "normalize": "finetune.images.pixels",
        "open_image": "finetune.images.open",
        "pixel_values": "finetune.images.pixels",
        "resize_and_crop": "finetune.images.pixels",
    },
)
