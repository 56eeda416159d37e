"""The exported encoder against transformers, and every way in which its folder can be broken."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_encoder import DIMENSION, END, MAX_TOKENS, PAD, PREPROCESSING, START, WORDS, build_encoder

from clipsearch.encoder import verification
from clipsearch.encoder.encoder import Encoder, encoding_device
from clipsearch.encoder.onnx_towers import OnnxTowers
from finetune.encoder_folder import (
    EMBEDDING_FILES,
    IMAGE_TOWER,
    TEXT_TOWER,
    fingerprint,
    read_description,
    write_description,
)
from finetune.errors import EncoderError, ImageError, UsageError
from finetune.images.pixels import load_pixels
from finetune.images.source import ImageSource

TEXTS = ["red dog", "", "two dogs on a beach", "RED DOG", "unheard of", "a " * 40, "💥", "\ud800"]


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch) -> Path:
    """Nothing is remembered from one test to the next, nor in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def encoder(encoder_folder) -> Encoder:
    return Encoder.load(encoder_folder, verify=False)


@pytest.fixture
def copy(encoder_folder, tmp_path) -> Path:
    return Path(shutil.copytree(encoder_folder, tmp_path / "copy"))


def random_pixels(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def torch_embeddings(folder: Path, texts: list[str], images: list[Image.Image]):
    """float32[n, d] of texts and of pictures, by transformers alone."""
    import torch
    from transformers import AutoProcessor, CLIPModel

    model, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(
        text=texts, images=images, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.inference_mode():
        output = model(**{k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")})
    return output.text_embeds.numpy(), output.image_embeds.numpy()


# --- the embeddings ---------------------------------------------------------------------------


def test_equals_transformers_on_texts_and_pictures(encoder, encoder_folder):
    texts = [text for text in TEXTS if text != "\ud800"]
    sizes = [(50, 41), (32, 32), (7, 90), (20, 20)]
    images = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (h, w, 3), dtype=np.uint8))
        for n, (w, h) in enumerate(sizes)
    ]
    expected_texts, expected_images = torch_embeddings(encoder_folder, texts, images)
    np.testing.assert_allclose(encoder.encode_texts(texts), expected_texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(images), expected_images, atol=1e-5)


def test_embeddings_have_unit_length_and_the_stated_shape(encoder):
    for embeddings in (encoder.encode_texts(TEXTS), encoder.encode_pixels(random_pixels(5))):
        assert embeddings.dtype == np.float32
        assert embeddings.shape[1] == encoder.dimension == DIMENSION
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert encoder.encode_texts([]).shape == (0, DIMENSION)
    assert encoder.encode_images([]).shape == (0, DIMENSION)
    assert encoder.encode_pixels(random_pixels(0)).shape == (0, DIMENSION)


def test_neither_batch_size_nor_neighbours_change_an_embedding(encoder):
    together = encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS, batch_size=2), together, atol=1e-5)
    alone = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    images = [Image.fromarray(pixels) for pixels in random_pixels(7)]
    np.testing.assert_allclose(
        encoder.encode_images(iter(images), batch_size=3), encoder.encode_images(images), atol=1e-5
    )


def test_pictures_of_every_kind_of_source(encoder, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(random_pixels(1)[0]).resize((60, 44)).save(path)
    kinds = [path, str(path), ImageSource(path), path.read_bytes(), Image.open(path)]
    embeddings = encoder.encode_images(kinds)
    np.testing.assert_allclose(embeddings, embeddings[[0] * len(kinds)], atol=1e-6)
    pixels = load_pixels(path, PREPROCESSING)
    np.testing.assert_allclose(encoder.encode_pixels(pixels[None])[0], embeddings[0], atol=1e-6)
    with pytest.raises(ImageError, match="no such file"):
        encoder.encode_images([tmp_path / "missing.png"])


def test_long_texts_keep_their_end_token(encoder):
    (ids,) = encoder._tokens(["dog " * 100])
    assert len(ids) == MAX_TOKENS and ids[0] == START and ids[-1] == END
    shorter = encoder.encode_texts(["dog " * (MAX_TOKENS - 2)])
    np.testing.assert_allclose(encoder.encode_texts(["dog " * 100]), shorter, atol=1e-6)


def test_a_text_without_any_token_is_embedded(copy):
    # A tokenizer that adds no begin and end.
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = None
    path.write_text(json.dumps(content))
    encoder = Encoder.load(copy, verify=False)
    assert encoder._tokens([""]) == [[]]
    ids, mask = encoder._pad([[], [5, 6]])
    assert ids.tolist() == [[PAD, PAD], [5, 6]]
    assert mask.tolist() == [[1, 0], [1, 1]]
    assert np.isfinite(encoder.encode_texts(["", "red"])).all()


def test_padding_to_the_full_length_where_the_tower_needs_it(copy):
    description = read_description(copy)
    plain = Encoder.load(copy, verify=False).encode_texts(TEXTS)
    write_description(copy, replace(description, pad_to_max=True))
    encoder = Encoder.load(copy, verify=False)
    ids, _ = encoder._pad([[START, END]])
    assert ids.shape == (1, MAX_TOKENS)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), plain, atol=1e-5)


def test_what_a_tokenizer_file_says_of_padding_and_length_is_overruled(copy):
    from tokenizers import Tokenizer

    path = copy / "tokenizer.json"
    expected = Encoder.load(copy, verify=False).encode_texts(TEXTS)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(length=40, pad_id=7)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(path))
    found = Encoder.load(copy, verify=False).encode_texts(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_torch_gives_the_same(encoder, encoder_folder):
    other = Encoder.load(encoder_folder, device="torch-cpu")
    pixels = random_pixels(4)
    np.testing.assert_allclose(
        other.encode_texts(TEXTS), encoder.encode_texts(TEXTS), atol=1e-3, rtol=0
    )
    np.testing.assert_allclose(
        other.encode_pixels(pixels), encoder.encode_pixels(pixels), atol=1e-3, rtol=0
    )


def test_several_threads_may_share_an_encoder(encoder_folder):
    encoder = Encoder.load(encoder_folder, threads=1)
    expected = Encoder.load(encoder_folder).encode_texts(TEXTS)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(encoder.encode_texts(TEXTS)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for found in results:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_query_loads_nothing_of_the_image_tower_nor_torch(encoder_folder):
    code = (
        "import sys\n"
        "from clipsearch.encoder.encoder import Encoder\n"
        "assert 'onnxruntime' not in sys.modules and 'tokenizers' not in sys.modules\n"
        f"encoder = Encoder.load({str(encoder_folder)!r})\n"
        "encoder.encode_texts(['red dog'])\n"
        "print(list(encoder._towers._sessions),\n"
        "      [name for name in ('torch', 'transformers', 'pandas', 'lancedb')\n"
        "       if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['{TEXT_TOWER}'] []"


# --- wrong use --------------------------------------------------------------------------------


def test_wrong_arguments_are_refused(encoder, encoder_folder):
    with pytest.raises(UsageError, match="list of texts"):
        encoder.encode_texts("red dog")
    for pixels in (random_pixels(1)[0], random_pixels(1)[:, :16], random_pixels(1) / 255):
        with pytest.raises(UsageError, match="pixels are"):
            encoder.encode_pixels(pixels)
    with pytest.raises(UsageError, match="threads=0"):
        Encoder.load(encoder_folder, threads=0)
    with pytest.raises(UsageError, match="'tpu' is not known; take one of auto, cpu, cuda, cuda:N"):
        Encoder.load(encoder_folder, device="tpu")


def test_cuda_without_a_device_or_the_extra_says_what_to_do(encoder_folder, monkeypatch):
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            Encoder.load(encoder_folder, device="cuda")
    with pytest.raises(UsageError, match="--device cuda:99: torch finds"):
        Encoder.load(encoder_folder, device="cuda:99")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[finetune\]' in a"):
        Encoder.load(encoder_folder, device="cuda:1")


def test_auto_is_a_gpu_where_torch_finds_one_and_the_folder_has_weights(
    encoder_folder, tmp_path, monkeypatch
):
    import torch

    for has_gpu, meant in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=has_gpu: found)
        assert encoding_device(encoder_folder, "auto") == meant
        assert encoding_device(tmp_path, "auto") == "cpu"  # ONNX towers alone, from the hub
        assert encoding_device(encoder_folder, "cuda:1") == "cuda:1"
    assert isinstance(Encoder.load(encoder_folder, device="auto").towers, OnnxTowers)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert encoding_device(encoder_folder, "auto") == "cpu"


# --- broken folders ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDING_FILES)
def test_a_changed_file_is_refused(copy, name):
    Encoder.load(copy)
    path = copy / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EncoderError, match="have the fingerprint"):
        Encoder.load(copy)


def test_another_format_version_is_refused(copy):
    path = copy / "encoder.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(EncoderError, match="format version 99"):
        Encoder.load(copy)


def test_encoder_json_names_transparency_only_where_it_is_not_as_it_always_was(copy, tmp_path):
    description = read_description(copy)
    assert description.preprocessing.transparency == "white"
    assert "transparency" not in json.loads((copy / "encoder.json").read_text())["preprocessing"]
    dropped = replace(description.preprocessing, transparency="dropped")
    write_description(copy, replace(description, preprocessing=dropped))
    assert read_description(copy).preprocessing == dropped
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    opaque = Image.new("RGB", (64, 64), (255, 0, 0))
    seen, red = Encoder.load(copy).encode_images([picture, opaque])
    np.testing.assert_allclose(seen, red, atol=1e-6)


@pytest.mark.parametrize("name", ["resize", "resample", "transparency"])
def test_a_way_to_prepare_pictures_that_is_unknown_here_is_refused(copy, name):
    path = copy / "encoder.json"
    content = json.loads(path.read_text())
    for value in ("pad", ["exact"], None):
        content["preprocessing"][name] = value
        path.write_text(json.dumps(content))
        with pytest.raises(EncoderError, match=rf"preprocessing\.{name} is .*; export the encoder"):
            Encoder.load(copy)


def test_missing_and_broken_parts_are_named(copy, tmp_path):
    with pytest.raises(EncoderError, match="no such encoder folder"):
        Encoder.load(tmp_path / "nowhere")
    (copy / IMAGE_TOWER).write_bytes(b"not an onnx file")
    encoder = Encoder.load(copy, verify=False)
    encoder.encode_texts(["still works"])
    with pytest.raises(EncoderError, match=r"image\.onnx: ONNX Runtime cannot load it") as caught:
        encoder.encode_pixels(random_pixels(1))
    assert "\n" not in str(caught.value)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be read"):
        Encoder.load(copy, verify=False).encode_texts(["dog"])
    (copy / IMAGE_TOWER).unlink()
    with pytest.raises(EncoderError, match=r"onnx/image\.onnx is missing"):
        Encoder.load(copy)


def test_a_tower_of_another_dimension_is_refused(copy):
    write_description(copy, replace(read_description(copy), dimension=48))
    encoder = Encoder.load(copy, verify=False)
    with pytest.raises(EncoderError, match=r"gives \[1, 32\], but .* says \[1, 48\]"):
        encoder.encode_texts(["dog"])


@pytest.mark.parametrize(("value", "length"), [(np.nan, "nan"), (2.0, "2"), (0.0, "0")])
def test_embeddings_that_are_no_unit_vectors_are_refused(encoder_folder, value, length):
    class Broken:
        def texts(self, input_ids, attention_mask):
            embeddings = np.zeros((len(input_ids), DIMENSION), np.float32)
            embeddings[:, 0] = 1
            embeddings[-1, 0] = value
            return embeddings

    encoder = Encoder(encoder_folder, read_description(encoder_folder), Broken())
    with pytest.raises(EncoderError, match=f"text tower gives an embedding of length {length},"):
        encoder.encode_texts(["dog", "dog"])


# --- the fingerprint's memory -----------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(verification, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def hashed(monkeypatch) -> list[Path]:
    """The folders that were hashed."""
    folders: list[Path] = []

    def check(folder, description, original=verification.check_fingerprint):
        folders.append(folder)
        original(folder, description)

    monkeypatch.setattr(verification, "check_fingerprint", check)
    return folders


def test_an_unchanged_folder_is_hashed_once(copy, hashed, settled, cache_home):
    for _ in range(3):
        Encoder.load(copy)
    assert len(hashed) == 1
    assert len(list((cache_home / "clipsearch" / "verified").iterdir())) == 1


def test_a_change_with_the_same_size_and_time_is_seen(copy, hashed, settled):
    Encoder.load(copy)
    path = copy / "model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(0.02)
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(EncoderError, match="a file was changed"):
        Encoder.load(copy)
    with pytest.raises(EncoderError, match="a file was changed"):
        Encoder.load(copy)
    assert len(hashed) == 3


def test_a_folder_that_was_exported_anew_is_hashed_anew(copy, hashed, settled):
    Encoder.load(copy)
    description = build_encoder(copy, seed=1)
    assert description.fingerprint == fingerprint(copy)
    assert Encoder.load(copy).fingerprint == description.fingerprint
    assert len(hashed) == 2


def test_files_just_written_are_not_trusted_to_their_clock(copy, hashed):
    Encoder.load(copy)
    Encoder.load(copy)
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_or_read_is_no_error(copy, hashed, settled, cache_home):
    cache_home.write_text("a file where the folder would be")
    Encoder.load(copy)
    Encoder.load(copy)
    assert len(hashed) == 2
    cache_home.unlink()
    Encoder.load(copy)
    (memory,) = (cache_home / "clipsearch" / "verified").iterdir()
    memory.write_text("{ broken")
    Encoder.load(copy)
    assert len(hashed) == 4


def test_the_test_encoder_is_what_it_says(encoder, encoder_folder):
    assert encoder.name == "tiny" and encoder.preprocessing == PREPROCESSING
    assert encoder.fingerprint == fingerprint(encoder_folder)
    dog, hound, plane = encoder.encode_texts(["red dog", "red dogs", "blue plane on the river"])
    assert dog @ hound > dog @ plane
    assert "dog" in WORDS.split()
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(1)[0]).save(buffer, "PNG")
    first, second = encoder.encode_images([buffer.getvalue(), Image.new("RGB", (32, 32))])
    assert first @ second < 0.9
