import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from decode_processes import workers_running
from PIL import Image

from finetune.console import Progress
from finetune.data.pixel_store import auto_budget, available_memory, load_all
from finetune.errors import TrainingError, UsageError
from finetune.images.decode_workers import Decoder
from finetune.images.pixels import load_pixels
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource

PREPROCESSING = Preprocessing(16, 16, "shortest-edge", 16, "bicubic", (0.5,) * 3, (0.5,) * 3)
BROKEN = (2, 5)


@pytest.fixture
def sources(tmp_path: Path) -> list[ImageSource]:
    made = []
    for i in range(40):
        path = tmp_path / f"{i}.png"
        if i in BROKEN:
            path.write_bytes(b"no picture")
        else:
            pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        made.append(ImageSource(path))
    return made


def progress() -> Progress:
    return Progress("Reading", 40, stream=io.StringIO())


@pytest.mark.parametrize("workers", [0, 2, None])
@pytest.mark.parametrize("cache", ["auto", "0", "off"])
def test_every_store_gives_the_same_pixels(sources, tmp_path, workers, cache) -> None:
    readable = [source for i, source in enumerate(sources) if i not in BROKEN]
    expected = np.stack([load_pixels(source, PREPROCESSING) for source in readable])
    spill = tmp_path / "spill"
    with Decoder(PREPROCESSING, workers) as decoder:
        loaded = load_all(decoder, sources, cache=cache, spill=spill, progress=progress())
        assert sorted(loaded.reasons) == list(BROKEN)
        assert all(str(sources[i].path) in reason for i, reason in loaded.reasons.items())
        chosen = [np.array([5, 0, 5]), np.array([37]), np.arange(38)]
        for indices, pixels in zip(chosen, loaded.store.batches(chosen), strict=True):
            assert np.array_equal(pixels, expected[indices])
        assert spill.exists() == (cache == "0")
    assert not workers_running()


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_equal_pictures_have_equal_keys(sources, tmp_path, cache) -> None:
    with Image.open(sources[7].path) as image:
        copy = tmp_path / "copy.bmp"  # other bytes, the same pixels
        image.save(copy)
    sources[20] = ImageSource(copy)
    with Decoder(PREPROCESSING, 0) as decoder:
        loaded = load_all(
            decoder, sources, cache=cache, spill=tmp_path / "spill", progress=progress()
        )
    keys = loaded.keys.tolist()
    assert loaded.keys.dtype == np.int64
    assert len(keys) == 38
    assert len(set(keys)) == 37
    assert keys[5] == keys[18]  # 7 and 20, less the broken ones before


def test_a_picture_that_was_stretched_has_a_note(sources, tmp_path) -> None:
    values = np.linspace(0, 4095, 480).reshape(20, 24).astype(np.uint16)
    Image.fromarray(values).save(sources[7].path)
    with Decoder(PREPROCESSING, 2) as decoder:
        loaded = load_all(
            decoder, sources, cache="auto", spill=tmp_path / "spill", progress=progress()
        )
    assert list(loaded.notes) == [7] and "only 0 to 4,095" in loaded.notes[7]
    (pixels,) = loaded.store.batches([np.array([5])])
    assert pixels.max() > 240


def test_pixels_that_fit_nowhere_are_refused(sources, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with (
        Decoder(PREPROCESSING, 0) as decoder,
        pytest.raises(UsageError, match="--cache-images off"),
    ):
        load_all(decoder, sources, cache=0, spill=tmp_path / "spill", progress=progress())


def test_a_picture_that_vanishes_stops_training_with_its_name(sources, tmp_path) -> None:
    with Decoder(PREPROCESSING, 0) as decoder:
        loaded = load_all(
            decoder, sources, cache="off", spill=tmp_path / "spill", progress=progress()
        )
        sources[0].path.unlink()
        with pytest.raises(TrainingError, match=r"0\.png"):
            list(loaded.store.batches([np.array([0])]))


def test_memory_is_known() -> None:
    assert 1 << 20 < available_memory() < 1 << 50


def test_processes_of_a_machine_share_its_memory(monkeypatch) -> None:
    monkeypatch.setattr("finetune.data.pixel_store.available_memory", lambda: 8000)
    assert auto_budget() == 4000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert auto_budget() == 1000
