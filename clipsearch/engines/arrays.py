"""Numpy files mapped into memory: opened at once, read as needed, shared between processes."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file, read only. Raises OSError or ValueError for a broken file."""
    # A plain view, for the subclass memmap makes every small operation slower.
    return np.asarray(np.load(path, mmap_mode="r"))
