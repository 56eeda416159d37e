"""Processes that read a run's images together; here threads stand for them."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.console import Progress
from finetune.data import joint_pixels
from finetune.data.joint_pixels import load_jointly, reads_jointly
from finetune.data.pixel_store import LoadedPixels, load_all
from finetune.errors import TrainingError, UsageError
from finetune.images.decode_workers import Decoder
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

PREPROCESSING = Preprocessing(16, 16, "shortest-edge", 16, "bicubic", (0.5,) * 3, (0.5,) * 3)
COUNT = 23
SIZE = 3


class Group:
    """What threads that stand for processes have in common."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(SIZE, timeout=30)
        self.given: list = [None] * SIZE


class Member:
    """One of them, as `World`."""

    size = SIZE

    def __init__(self, group: Group, rank: int) -> None:
        self._group, self._rank = group, rank
        self.is_first = rank == 0

    def share(self, count: int) -> slice:
        return slice(count * self._rank // SIZE, count * (self._rank + 1) // SIZE)

    def from_all(self, value):
        self._group.given[self._rank] = value
        self._group.barrier.wait()
        found = list(self._group.given)
        self._group.barrier.wait()
        return found

    def from_first(self, make):
        made = error = None
        if self.is_first:
            try:
                made = make()
            except Exception as raised:
                error = raised
        made, error = self.from_all((made, error))[0]
        if error is not None:
            raise error if self.is_first else TrainingError(str(error))
        return made


class CountingDecoder(Decoder):
    """Writes down what it decodes."""

    def __init__(self) -> None:
        super().__init__(PREPROCESSING, 0)
        self.decoded: list[ImageSource] = []

    def decode(self, sources):
        self.decoded += sources
        return super().decode(sources)


def sources(folder: Path, broken: tuple[int, ...]) -> list[ImageSource]:
    made = []
    for i in range(COUNT):
        path = folder / f"{i}.png"
        pixels = np.random.default_rng(i % 20).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if i in broken:
            path.write_bytes(b"no image")
        made.append(ImageSource(path))
    return made


def read(images, cache, spill) -> list[tuple[CountingDecoder, LoadedPixels]]:
    group = Group()

    def one(rank: int):
        decoder = CountingDecoder()
        progress = Progress("Reading", COUNT, stream=io.StringIO())
        loaded = load_jointly(
            decoder,
            images,
            cache=cache,
            spill=spill,
            progress=progress,
            world=Member(group, rank),
        )
        return decoder, loaded

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(one, range(SIZE)))


@pytest.mark.parametrize("broken", [(), (2, 9, 22)])
@pytest.mark.parametrize("cache", ["auto", "0", "off"])
def test_all_have_what_one_alone_would_have_and_each_decodes_its_share(
    tmp_path, cache, broken
) -> None:
    images = sources(tmp_path, broken)
    alone = load_all(
        Decoder(PREPROCESSING, 0),
        images,
        cache="auto",
        spill=tmp_path / "alone",
        progress=Progress("Reading", COUNT, stream=io.StringIO()),
    )
    found = read(images, cache, tmp_path / "spill")
    assert [source for decoder, _ in found for source in decoder.decoded] == images
    chosen = [np.array([5, 0, 5]), np.arange(COUNT - len(broken))]
    expected = list(alone.store.batches(chosen))
    for _, loaded in found:
        assert loaded.reasons == alone.reasons
        assert loaded.notes == alone.notes
        np.testing.assert_array_equal(loaded.keys, alone.keys)
        for got, wanted in zip(loaded.store.batches(chosen), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert (tmp_path / "spill").exists() == (cache == "0")


@pytest.mark.skipif(not joint_pixels.MEMORY.is_dir(), reason="memory as files, as on Linux")
def test_the_memory_has_no_name_by_the_time_that_images_are_decoded(tmp_path, monkeypatch) -> None:
    names: list[list[str]] = []

    class Looking(CountingDecoder):
        def decode(self, sources):
            found = joint_pixels.MEMORY.glob("clipsearch-pixels-*")
            names.append([path.name for path in found])
            return super().decode(sources)

    before = {path.name for path in joint_pixels.MEMORY.glob("clipsearch-pixels-*")}
    monkeypatch.setitem(read.__globals__, "CountingDecoder", Looking)
    read(sources(tmp_path, ()), "auto", tmp_path / "spill")
    after = {path.name for path in joint_pixels.MEMORY.glob("clipsearch-pixels-*")}
    assert after == before
    # the first one, which takes the name away, has done so before it decodes
    assert min(map(len, names)) == len(before)


def test_where_there_is_no_room_all_stop_with_the_reason(tmp_path, monkeypatch) -> None:
    def full(needed, budget, spill):
        raise UsageError("no room; --cache-images off")

    monkeypatch.setattr(joint_pixels, "check_disk", full)
    with pytest.raises((UsageError, TrainingError), match="--cache-images off"):
        read(sources(tmp_path, ()), "0", tmp_path / "spill")


def test_several_machines_share_no_memory(monkeypatch) -> None:
    world = Member(Group(), 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert not reads_jointly(world, "auto")
    assert reads_jointly(world, "off")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(SIZE))
    assert reads_jointly(world, "auto")
    world.size = 1
    assert not reads_jointly(world, "off")
