"""The exported encoder on torch: in float32 and bfloat16, from several threads, on a GPU."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clipsearch.encoder import torch_towers
from clipsearch.encoder.encoder import Encoder
from finetune.errors import UsageError

TEXTS = ["red dog", "", "two dogs on a beach", "a " * 40]


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch) -> Path:
    """Nothing is remembered from one test to the next, nor in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def encoder(encoder_folder) -> Encoder:
    return Encoder.load(encoder_folder, verify=False)


def random_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def lenient(monkeypatch):
    """The tower's weights are large, so that embeddings differ; a trained one stays nearer."""
    monkeypatch.setattr(torch_towers, "LEAST_COSINE", 0.99)


def test_in_bf16_embeddings_stay_near_and_the_cosine_is_told(encoder_folder, lenient):
    pixels = random_pixels(6)
    expected = Encoder.load(encoder_folder, device="torch-cpu").encode_pixels(pixels)
    encoder = Encoder.load(encoder_folder, device="torch-cpu", precision="bf16")
    assert encoder.note is None
    first, second = encoder.encode_pixels(pixels[:4]), encoder.encode_pixels(pixels)
    np.testing.assert_array_equal(first, second[:4])
    cosines = (expected * second).sum(axis=1)
    assert 0.999 < cosines.min() < 1
    assert not np.array_equal(second, expected)
    told = float(re.search(r"is (0\.\d{6}), of the first 4 images", encoder.note)[1])
    assert told == pytest.approx(cosines[:4].min(), abs=2e-6)
    # texts, of which an index holds none, stay in float32
    plain = Encoder.load(encoder_folder, device="torch-cpu")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), plain.encode_texts(TEXTS))


def test_where_bf16_is_too_far_the_tower_stays_in_fp32(encoder_folder):
    pixels = random_pixels(4)
    encoder = Encoder.load(encoder_folder, device="torch-cpu", precision="bf16")
    expected = Encoder.load(encoder_folder, device="torch-cpu").encode_pixels(pixels)
    for _ in range(2):
        np.testing.assert_array_equal(encoder.encode_pixels(pixels), expected)
    assert encoder.note.endswith("below 0.9999: all are embedded in fp32")


def test_threads_that_share_a_torch_encoder_get_their_own_images(encoder_folder, lenient):
    encoder = Encoder.load(encoder_folder, device="torch-cpu", precision="bf16")
    pixels = random_pixels(24)
    encoder.encode_pixels(pixels[:3])
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda at: encoder.encode_pixels(pixels[at : at + 3]), range(0, 24, 3))
        )
    np.testing.assert_allclose(np.concatenate(found), encoder.encode_pixels(pixels), atol=1e-3)


def test_a_precision_that_the_device_does_not_have_is_refused(encoder_folder):
    with pytest.raises(UsageError, match="--precision bf16 needs --device cuda"):
        Encoder.load(encoder_folder, precision="bf16")
    with pytest.raises(UsageError, match="'fp64' is not known; take fp32 or bf16"):
        Encoder.load(encoder_folder, device="cuda", precision="fp64")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_the_gpu_embeddings_are_those_of_the_cpu(encoder, encoder_folder, precision, lenient):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    on_gpu = Encoder.load(encoder_folder, device="cuda", precision=precision)
    pixels = random_pixels(64)
    expected = encoder.encode_pixels(pixels)
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda at: on_gpu.encode_pixels(pixels[at : at + 8]), range(0, 64, 8))
        found = np.concatenate(list(parts))
    assert (found * expected).sum(axis=1).min() > (1 - 1e-5 if precision == "fp32" else 0.999)
    np.testing.assert_allclose(on_gpu.encode_texts(TEXTS), encoder.encode_texts(TEXTS), atol=1e-3)
