"""A feed whose encoder runs on torch, as on a GPU: batches in two threads, and their precision."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.encoder import torch_towers
from clipsearch.engines import open_engine
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.writing import Encoding
from finetune.errors import UsageError

COUNT = 21


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", f"image {number}"])
    path = tmp_path / "images.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *rows])
    return path


def embeddings(index: Path) -> np.ndarray:
    engine = open_engine(str(index))
    try:
        found = {each.id: each.embedding for each in engine.visit(embeddings=True)}
    finally:
        engine.close()
    return np.stack([found[f"{number}.png"] for number in range(COUNT)])


def fed(manifest: Path, encoder_folder: Path, name: str, **options: object):
    index = manifest.parent / f"{name}.index"
    values = FeedOptions(
        manifest=manifest, index=str(index), encoder=encoder_folder, workers=0, **options
    )
    report = feed(values, progress_stream=io.StringIO())
    assert (report.fed, report.rejected) == (COUNT, 0)
    return embeddings(index), report.notes


def test_embeddings_are_those_of_the_onnx_towers_and_bf16_says_how_near(
    manifest, encoder_folder, monkeypatch
) -> None:
    expected, _ = fed(manifest, encoder_folder, "onnx")
    on_torch, notes = fed(manifest, encoder_folder, "torch", device="torch-cpu", batch_size=4)
    np.testing.assert_allclose(on_torch, expected, atol=1e-3)
    assert notes == ()
    monkeypatch.setattr(torch_towers, "LEAST_COSINE", 0.99)
    rough, (note,) = fed(
        manifest, encoder_folder, "bf16", device="torch-cpu", precision="bf16", batch_size=4
    )
    assert note.startswith("the least cosine of an embedding in bf16 to the same in fp32 is 0.99")
    assert note.endswith("of the first 4 images")
    assert 0.99 < (rough * expected).sum(axis=1).min() < 1


def test_a_gpu_has_two_batches_at_a_time_and_the_cpu_one_among_its_threads() -> None:
    assert Encoding.of(None, None, "cuda") == Encoding(None, 512, 2, "cuda")
    assert Encoding.of(3, 8, "cuda") == Encoding(3, 16, 2, "cuda")
    on_cpu = Encoding.of(None, None, "cpu")
    assert on_cpu.batch_size == 32 and on_cpu.threads >= 1


def test_a_precision_that_cannot_be_is_refused_before_anything_is_read(tmp_path) -> None:
    options = FeedOptions(manifest=tmp_path / "no.csv", index="i.index", precision="bf16")
    with pytest.raises(UsageError, match="--precision bf16 needs --device cuda"):
        feed(options)
