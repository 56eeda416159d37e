"""Both methods against plain averages, on exported encoders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.encoder.encoder import Encoder
from clipsearch.localization import locate as locate_room
from clipsearch.localization.locate import WINDOW_CELLS, WINDOW_SIZES, locate
from finetune.encoder_folder import PATCH_TOWER
from finetune.errors import EncoderError, ImageError, UsageError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder folder as the export writes it, of a tiny CLIP that is not trained."""
    from tiny_checkpoints import save_clip

    from finetune.export.encoder import export_encoder
    from finetune.models.dual_encoder import load_dual_encoder

    folder = tmp_path_factory.mktemp("exported")
    save_clip(folder / "clip")
    export_encoder(load_dual_encoder(folder / "clip"), folder / "encoder")
    return folder / "encoder"


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


@pytest.mark.parametrize("size", [(96, 96), (150, 96), (60, 200), (7, 5)])
def test_windows_are_the_naive_average_of_crops_encoded_like_images(encoder_folder, size):
    encoder = Encoder.load(encoder_folder, verify=False)
    image, vector = noise(*size), encoder.encode_texts(["a red dog"])[0]
    found = locate(encoder, image, vector, "windows")
    width, height = size
    short = min(size)
    rows, columns = round(WINDOW_CELLS * height / short), round(WINDOW_CELLS * width / short)
    assert found.cosines.shape == (rows, columns)
    windows = []
    for share in WINDOW_SIZES:
        side = share * short
        down, along = (int(np.ceil((each - side) / (side / 2) - 1e-9)) for each in (height, width))
        for row in range(down + 1):
            for column in range(along + 1):
                top = min(round((height - side) * row / max(down, 1)), height - 1)
                left = min(round((width - side) * column / max(along, 1)), width - 1)
                start_y = (height - side) * row / max(down, 1)
                start_x = (width - side) * column / max(along, 1)
                bottom = max(top + 1, min(round(start_y + side), height))
                right = max(left + 1, min(round(start_x + side), width))
                windows.append((left, top, right, bottom))
    cosines = {}
    for box in windows:
        resized = image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)
        cosines[box] = encoder.encode_images([resized])[0] @ vector
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width / columns, (row + 0.5) * height / rows
            over = [
                cosines[left, top, right, bottom]
                for left, top, right, bottom in windows
                if left <= x < right and top <= y < bottom
            ]
            assert found.cosines[row, column] == pytest.approx(np.mean(over), abs=1e-5)


def test_a_square_window_is_encoded_as_the_same_crop_is(encoder_folder):
    encoder = Encoder.load(encoder_folder, verify=False)
    image, vector = noise(80, 80), encoder.encode_texts(["cat"])[0]
    whole = encoder.encode_images([image])[0] @ vector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate_room, "WINDOW_SIZES", (1.0,))
        found = locate(encoder, image, vector, "windows")
    np.testing.assert_allclose(found.cosines, whole, atol=1e-5)


def test_dense_is_torchs_patches_of_the_whole_image(exported):
    import torch

    from finetune.images.pixels import normalize, resize_whole
    from finetune.models.dual_encoder import load_dual_encoder
    from finetune.models.patches import embed_patches

    encoder = Encoder.load(exported, verify=False)
    image, vector = noise(80, 80), encoder.encode_texts(["two dogs"])[0]
    found = locate(encoder, image, vector, "dense")
    dual = load_dual_encoder(exported)
    pixels = resize_whole(image, (0, 0, 80, 80), dual.preprocessing)[None]
    with torch.inference_mode():
        patches = embed_patches(dual, torch.from_numpy(normalize(pixels, dual.preprocessing)))
    np.testing.assert_allclose(found.cosines, (patches.numpy() @ vector)[0], atol=1e-5)
    assert (found.method, found.cosines.shape, found.notes) == ("dense", (2, 2), ())
    on_torch = Encoder.load(exported, device="torch-cpu", verify=False)
    np.testing.assert_allclose(
        locate(on_torch, image, vector, "dense").cosines, found.cosines, atol=1e-5
    )


def test_dense_of_a_wide_image_averages_the_squares_that_cover_it(exported):
    encoder = Encoder.load(exported, verify=False)
    image, vector = noise(120, 80), encoder.encode_texts(["two dogs"])[0]
    found = locate(encoder, image, vector, "dense")
    assert found.cosines.shape == (2, 3)
    left, right = (
        locate(encoder, image.crop((x, 0, x + 80, 80)), vector, "dense").cosines for x in (0, 40)
    )
    np.testing.assert_allclose(found.cosines[:, 0], left[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.cosines[:, 1], (left[:, 1] + right[:, 0]) / 2, atol=1e-5)
    np.testing.assert_allclose(found.cosines[:, 2], right[:, 1], atol=1e-5)


def test_an_earlier_folder_is_looked_into_by_windows(exported, tmp_path):
    older = shutil.copytree(exported, tmp_path / "older")
    (older / PATCH_TOWER).unlink()
    # The tower of patches is no part of the fingerprint: the folder is whole without it.
    encoder = Encoder.load(older)
    assert encoder.fingerprint == Encoder.load(exported).fingerprint
    assert not encoder.gives_patches
    image, vector = noise(40, 40), encoder.encode_texts(["dog"])[0]
    with pytest.raises(EncoderError, match=r"older: has no onnx/patches\.onnx.* --method windows"):
        locate(encoder, image, vector, "dense")
    found = locate(encoder, image, vector)
    assert found.method == "windows"
    assert found.notes == (f"{older} has no {PATCH_TOWER}: located by windows",)
    assert locate(Encoder.load(exported), image, vector).method == "dense"


def test_a_broken_tower_of_patches_is_named(exported, tmp_path):
    broken = shutil.copytree(exported, tmp_path / "broken")
    whole = (broken / PATCH_TOWER).read_bytes()
    (broken / PATCH_TOWER).write_bytes(whole[: len(whole) // 2])
    encoder = Encoder.load(broken)
    vector = encoder.encode_texts(["dog"])[0]
    with pytest.raises(EncoderError, match=r"patches\.onnx: ONNX Runtime cannot load it"):
        locate(encoder, noise(40, 40), vector, "dense")
    shutil.copy(broken / "onnx/image.onnx", broken / PATCH_TOWER)
    with pytest.raises(EncoderError, match=r"patches\.onnx: gives \[1, 24\], but patches are"):
        locate(Encoder.load(broken), noise(40, 40), vector, "dense")


def test_what_cannot_be_looked_into_is_one_sentence(encoder_folder):
    encoder = Encoder.load(encoder_folder, verify=False)
    vector = encoder.encode_texts(["dog"])[0]
    with pytest.raises(UsageError, match="method 'edges' is not known; take windows or dense"):
        locate(encoder, noise(40, 40), vector, "edges")
    with pytest.raises(ImageError, match=r"^long\.png: has 900 x 9 pixels"):
        locate(encoder, noise(900, 9), vector, name="long.png")


class MeanColour:
    """An encoder whose embedding of an image is its mean colour."""

    gives_patches = False

    def __init__(self, preprocessing) -> None:
        self.preprocessing = preprocessing

    def encode_pixels(self, pixels):
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("corner", [(10, 8), (70, 50), (140, 20)])
def test_a_red_square_is_found_where_it_is(corner):
    from tiny_encoder import PREPROCESSING

    image = Image.new("RGB", (180, 90), (0, 0, 200))
    x, y = corner
    image.paste((220, 0, 0), (x, y, x + 30, y + 30))
    red = np.array([1, 0, 0], np.float32)
    found = locate(MeanColour(PREPROCESSING), image, red, "windows")
    assert x <= found.peak.x <= x + 30 and y <= found.peak.y <= y + 30
    box = found.boxes[0].box
    assert box.x <= x + 15 <= box.right and box.y <= y + 15 <= box.bottom
