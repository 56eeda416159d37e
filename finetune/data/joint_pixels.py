"""Images that the processes of a run read together: each decodes its share, and all see all pixels.

On one machine the pixels lie in one piece of memory, or one file, that every process maps; what
they learn of each image is exchanged. Imports without torch.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from finetune.arrays import Pixels
from finetune.console import Progress
from finetune.data.pixel_store import (
    MEGABYTE,
    CachedPixels,
    LoadedPixels,
    PixelStore,
    StreamedPixels,
    auto_budget,
    check_disk,
    content_key,
    reserve,
)
from finetune.images.decode_workers import Decoder
from finetune.images.source import ImageSource

Answer = TypeVar("Answer")
# Files there are memory, on Linux.
MEMORY = Path("/dev/shm")


class Processes(Protocol):
    """The processes of a run, as `finetune.data.world.World`."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        ...

    def share(self, count: int) -> slice:
        """Return which of so many rows are this one's."""
        ...

    def from_first(self, make: Callable[[], Answer]) -> Answer:
        """Return in all processes what `make` returns in the first."""
        ...

    def from_all(self, value: Answer) -> list[Answer]:
        """Return what each process gives, in order; waits for all."""
        ...


def reads_jointly(world: Processes, cache: int | str) -> bool:
    """Return whether each process is to decode its share alone.

    Pixels that are kept are shared on one machine only; those of several decode all, each for
    itself. What is decoded again in each epoch is a process's own anyway.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return world.size > 1 and (cache == "off" or here == world.size)


def load_jointly(
    decoder: Decoder,
    sources: Sequence[ImageSource],
    *,
    cache: int | str,
    spill: Path,
    progress: Progress,
    world: Processes,
) -> LoadedPixels:
    """Load as `finetune.data.pixel_store.load_all` does, called by all with equal sources.

    Raises UsageError in the first process where the pixels fit neither in memory nor on the disk,
    and TrainingError in the others.
    """
    own = range(len(sources))[world.share(len(sources))]
    pixels = None
    if cache != "off":
        pre = decoder.preprocessing
        shape = (len(sources), pre.height, pre.width, 3)
        pixels = _mapped_by_all(shape, cache, spill, world)
    found: list[tuple[int, int | None, str | None]] = []
    for i, decoded in zip(own, decoder.decode(sources[own.start : own.stop]), strict=True):
        if decoded.pixels is None:
            found.append((i, None, decoded.error or "cannot be read"))
        else:
            found.append((i, content_key(decoded.pixels), decoded.note))
            if pixels is not None:
                pixels[i] = decoded.pixels
        progress.advance()
    every = [each for part in world.from_all(found) for each in part]
    readable = np.array([i for i, key, _ in every if key is not None], np.int64)
    store: PixelStore
    if pixels is None:
        store = StreamedPixels(decoder, [sources[i] for i in readable])
    else:
        store = CachedPixels(pixels, None if len(readable) == len(sources) else readable)
    return LoadedPixels(
        store,
        {i: said for i, key, said in every if key is None and said is not None},
        {i: said for i, key, said in every if key is not None and said is not None},
        np.array([key for _, key, _ in every if key is not None], np.int64),
    )


def _mapped_by_all(
    shape: tuple[int, ...], cache: int | str, spill: Path, world: Processes
) -> Pixels:
    """Map uint8 of that shape, the same in every process."""
    needed = int(np.prod(shape, dtype=np.int64))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def make() -> str:
        # One copy stands for those of all.
        budget = here * auto_budget() if cache == "auto" else int(cache) * MEGABYTE
        if MEMORY.is_dir() and needed <= min(budget, shutil.disk_usage(MEMORY).free):
            descriptor, path = tempfile.mkstemp(dir=MEMORY, prefix="clipsearch-pixels-")
            os.close(descriptor)
        else:
            check_disk(needed, budget, spill)
            path = str(spill)
        try:
            reserve(Path(path), needed)
        except OSError:
            Path(path).unlink()
            raise
        return path

    path = Path(world.from_first(make))
    try:
        mapped: Any = np.memmap(path, np.uint8, "r+", shape=shape)
        world.from_all(None)  # all have it
    finally:
        if world.is_first and path.parent == MEMORY:
            # Without a name it goes with the last process, however that ends.
            path.unlink()
    pixels: Pixels = mapped
    return pixels
