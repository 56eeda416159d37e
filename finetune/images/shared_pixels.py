"""Memory in which a decoding worker leaves pixels for the process that asked for them.

Pixels go through a pipe in pieces, copied four times on their way; here they are copied once. The
memory is a file without a name, known by its descriptor alone: it goes with the last of the two
processes, however they end.
"""

import mmap
import os
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from finetune.images.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]


class SharedPixels:
    """Slots for pixels of one size, uint8[slots, height, width, 3], mapped from a descriptor."""

    def __init__(self, descriptor: int, slots: int, preprocessing: Preprocessing) -> None:
        self.descriptor = descriptor
        shape = (slots, preprocessing.height, preprocessing.width, 3)
        self._map = mmap.mmap(descriptor, int(np.prod(shape)))
        self._pixels: Pixels | None = np.frombuffer(self._map, np.uint8).reshape(shape)

    @classmethod
    def make(cls, slots: int, preprocessing: Preprocessing) -> Self | None:
        """Take the memory, or None where the system has no such thing or none left."""
        create: Callable[[str], int] | None = getattr(os, "memfd_create", None)
        if create is None:
            return None
        descriptor = -1
        try:
            descriptor = create("clipsearch-pixels")
            # All of it now: a page that is found missing later ends the process that writes it.
            size = slots * preprocessing.height * preprocessing.width * 3
            os.posix_fallocate(descriptor, 0, size)
            return cls(descriptor, slots, preprocessing)
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
            return None

    def put(self, slot: int, pixels: Pixels) -> None:
        """Copy pixels, uint8[height, width, 3], into a slot."""
        assert self._pixels is not None
        self._pixels[slot] = pixels

    def take(self, slot: int) -> Pixels:
        """Return a copy of what lies in a slot, which may then be filled again."""
        assert self._pixels is not None
        taken: Pixels = self._pixels[slot].copy()
        return taken

    def close(self) -> None:
        """Give the memory back, on this side."""
        self._pixels = None
        self._map.close()
        os.close(self.descriptor)
