"""Decoded images, by index: from memory, from a file, or decoded again each time.

Imports without torch.
"""

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from finetune.arrays import Int64, Pixels
from finetune.console import Progress
from finetune.errors import TrainingError, UsageError
from finetune.images.decode_workers import Decoder, Wanted
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

MEGABYTE = 1 << 20
BATCHES_AHEAD = 4


class PixelStore(Protocol):
    """Pixels of n images."""

    def batches(self, indices: Iterable[Int64]) -> Iterator[Pixels]:
        """Yield uint8[b, h, w, 3] for each int64[b] of indices, in order."""
        ...


@dataclass(frozen=True, slots=True)
class CachedPixels:
    """All images, uint8[n, h, w, 3], in memory or mapped from a file.

    Attributes:
        pixels: Of all images, or more.
        rows: Which rows of `pixels` are the images; None where all are.
    """

    pixels: Pixels
    rows: Int64 | None = None

    def batches(self, indices: Iterable[Int64]) -> Iterator[Pixels]:
        """Yield uint8[b, h, w, 3] for each int64[b] of indices, in order."""
        for chosen in indices:
            yield self.pixels[chosen if self.rows is None else self.rows[chosen]]


@dataclass(frozen=True, slots=True)
class StreamedPixels:
    """Images that are decoded whenever they are needed, a few batches ahead."""

    decoder: Decoder
    sources: Sequence[ImageSource]

    def batches(self, indices: Iterable[Int64]) -> Iterator[Pixels]:
        """Yield uint8[b, h, w, 3] for each int64[b] of indices, in order.

        Raises TrainingError where an image that could be read before no longer can.
        """
        chunks = ([self.sources[i] for i in chosen] for chosen in indices)
        return decoded_batches(self.decoder, chunks)


def decoded_batches(decoder: Decoder, batches: Iterable[Sequence[Wanted]]) -> Iterator[Pixels]:
    """Yield uint8[b, h, w, 3] for each batch of readable images, a few batches ahead.

    Raises TrainingError where an image that could be read before no longer can.
    """
    for decoded in decoder.decode_batches(batches, BATCHES_AHEAD):
        for image in decoded:
            if image.pixels is None:
                raise TrainingError(f"an image changed during training: {image.error}")
        yield np.stack([each.pixels for each in decoded if each.pixels is not None])


@dataclass(frozen=True, slots=True)
class LoadedPixels:
    """A store of the readable images, in order.

    Attributes:
        store: Index i is the i-th readable image.
        reasons: Of each unreadable image, by its index among all sources.
        notes: How others were read, by the same index, where a user should know it.
        keys: int64, of the readable images; equal where all pixels are (a hash of 64 bits:
            among a million images two different ones share a key with a chance of 3e-8).
    """

    store: PixelStore
    reasons: dict[int, str]
    notes: dict[int, str]
    keys: Int64


def load_all(
    decoder: Decoder,
    sources: Sequence[ImageSource],
    *,
    cache: int | str,
    spill: Path,
    progress: Progress,
) -> LoadedPixels:
    """Read every image once, and keep the pixels where `cache` says.

    Args:
        decoder: Decodes; it must live as long as the store.
        sources: The images.
        cache: "auto", "off" or megabytes of memory, see TrainConfig.
        spill: The file for pixels that do not fit in memory; replaced.
        progress: Counts the images.

    Raises UsageError where the pixels fit neither in memory nor on the disk.
    """
    pixels = None if cache == "off" else _room(sources, decoder.preprocessing, cache, spill)
    reasons: dict[int, str] = {}
    notes: dict[int, str] = {}
    keys = array("q")
    for i, decoded in enumerate(decoder.decode(sources)):
        if decoded.pixels is None:
            reasons[i] = decoded.error or "cannot be read"
        else:
            if decoded.note is not None:
                notes[i] = decoded.note
            if pixels is not None:
                pixels[len(keys)] = decoded.pixels
            keys.append(content_key(decoded.pixels))
        progress.advance(note=f"{len(reasons):,} unreadable" if reasons else None)
    store: PixelStore
    if pixels is not None:
        store = CachedPixels(pixels[: len(keys)])
    else:
        kept = [source for i, source in enumerate(sources) if i not in reasons]
        store = StreamedPixels(decoder, kept)
    return LoadedPixels(store, reasons, notes, np.array(keys, np.int64))


def content_key(pixels: Pixels) -> int:
    """Return a hash of an image's pixels that fits an int64, the same on every machine."""
    digest = hashlib.sha256(pixels.tobytes()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _room(
    sources: Sequence[ImageSource], preprocessing: Preprocessing, cache: int | str, spill: Path
) -> Pixels:
    shape = (len(sources), preprocessing.height, preprocessing.width, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    budget = auto_budget() if cache == "auto" else int(cache) * MEGABYTE
    if needed <= budget:
        return np.empty(shape, np.uint8)
    check_disk(needed, budget, spill)
    reserve(spill, needed)
    return np.memmap(spill, np.uint8, "r+", shape=shape)


def check_disk(needed: int, budget: int, spill: Path) -> None:
    """Raise UsageError where so many bytes, which memory has no room for, do not fit there."""
    free = shutil.disk_usage(spill.parent).free
    if needed > free:
        raise UsageError(
            f"the decoded images take {needed // MEGABYTE:,} MB, but the memory for them is"
            f" {budget // MEGABYTE:,} MB and {spill.parent} has {free // MEGABYTE:,} MB free;"
            f" decode them again every epoch with --cache-images off"
        )


def reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes, which are there to be written; replaces another."""
    with path.open("wb") as file:
        # Writing to a mapped page that the disk has no room for would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def auto_budget() -> int:
    """Return the bytes for pixels: half of what is free, shared with the machine's processes."""
    return available_memory() // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def available_memory() -> int:
    """Return the bytes that this process may still take.

    These are the system's, or its container's where less.
    """
    available = 2 << 30
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(available, 0)
