"""A short text that an image shares with its copies: smaller, or compressed anew."""

import numpy as np
from PIL import Image

from finetune.arrays import Pixels

_SIDE = 32
_FREQUENCIES = 6
_COSINES = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


def perceptual_hash(pixels: Pixels) -> str:
    """Return the hash of an image, uint8[height, width, 3], as 9 hexadecimal digits.

    The 35 lowest frequencies of the discrete cosine transform of a 32 x 32 grey image, each a bit:
    above their median or not. After "pHash" (Zauner, "Implementation and benchmarking of perceptual
    image hash functions", 2010), which has 63 bits and compares them by how many differ; fewer and
    lower ones are mostly all equal in a copy, so that copies can be grouped by the text alone.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    spectrum = _COSINES @ np.asarray(grey, np.float64) @ _COSINES.T
    lowest = spectrum.ravel()[1:]
    bits = lowest > np.median(lowest)
    return f"{int(''.join('01'[bit] for bit in bits.tolist()), 2):09x}"
