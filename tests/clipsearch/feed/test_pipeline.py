"""Encoding in threads: the same results in the same order."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.ledger.entry import Entry
from clipsearch.feed.pipeline import PlannedImage, Rejection, Step, encode
from clipsearch.operations import Upsert
from finetune.images.source import ImageSource

COUNT = 23
BROKEN = (4, 11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = chance.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    for number in BROKEN:
        (root / f"{number}.png").write_bytes(b"no image")
    return root


def images(folder: Path, pulled: list[int]) -> Iterator[tuple[PlannedImage, ImageSource]]:
    for number in range(COUNT):
        pulled.append(number)
        document = Document(str(number), (), f"{number}.png", {}, {}, None)
        entry = Entry(str(number), "", "", "", "")
        yield PlannedImage(document, entry), ImageSource(folder / f"{number}.png")


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 5), (2, 8), (3, 1), (4, 64)])
def test_threads_change_neither_order_nor_embeddings(
    folder: Path, encoder_folder: Path, threads: int, batch_size: int
) -> None:
    encoder = Encoder.load(encoder_folder, threads=1)
    results = list(
        encode(images(folder, []), encoder, workers=0, batch_size=batch_size, threads=threads)
    )
    steps = [result for result in results if isinstance(result, Step)]
    rejected = [result.id for result in results if isinstance(result, Rejection)]
    assert rejected == [str(number) for number in BROKEN]
    whole = [number for number in range(COUNT) if number not in BROKEN]
    assert [step.operation.id for step in steps] == [str(number) for number in whole]
    expected = encoder.encode_images(folder / f"{number}.png" for number in whole)
    for step, embedding in zip(steps, expected, strict=True):
        assert isinstance(step.operation, Upsert)
        np.testing.assert_allclose(step.operation.document.embedding, embedding, atol=1e-6)


class SlowEncoder:
    """Counts the calls that run at once; the first of all takes longest."""

    def __init__(self, encoder: Encoder) -> None:
        self.preprocessing = encoder.preprocessing
        self.sizes: list[int] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            first = not self.sizes
            self.sizes.append(len(pixels))
        time.sleep(0.3 if first else 0.05)
        with self._lock:
            self.running -= 1
        return np.eye(len(pixels), 4, dtype=np.float32)


def test_threads_share_the_batch_and_wait_for_the_caller(
    folder: Path, encoder_folder: Path
) -> None:
    encoder = SlowEncoder(Encoder.load(encoder_folder, threads=1))
    pulled: list[int] = []
    running = encode(
        images(folder, pulled),
        encoder,  # type: ignore[arg-type]
        workers=0,
        batch_size=4,
        threads=2,
    )
    assert next(running) is not None
    # One share given back, two that run and one that waits; and what was read while it ran.
    assert len(pulled) <= 2 * 4 + 1
    assert len(list(running)) == COUNT - 1
    assert encoder.most == 2
    assert set(encoder.sizes) <= {2, 1}


def test_stopping_in_the_middle_ends_every_thread(folder: Path, encoder_folder: Path) -> None:
    encoder = SlowEncoder(Encoder.load(encoder_folder, threads=1))
    before = set(threading.enumerate())
    running = encode(
        images(folder, []),
        encoder,  # type: ignore[arg-type]
        workers=1,
        batch_size=4,
        threads=2,
    )
    next(running)
    running.close()
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in names if name.startswith("clipsearch-")], names
