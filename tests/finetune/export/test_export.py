"""The encoder folder: equal to plain transformers, checked, and replaced whole or not at all."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from clipsearch_command import CODE
from PIL import Image
from tiny_checkpoints import save_clip, save_siglip
from transformers import AutoModel, AutoProcessor, CLIPModel

from clipsearch.encoder.encoder import Encoder
from finetune.encoder_folder import (
    ENCODER_FOLDER,
    PATCH_TOWER,
    EncoderDescription,
    check_fingerprint,
    fingerprint,
    read_description,
)
from finetune.errors import ClipsearchError, UsageError
from finetune.export import encoder as export_room
from finetune.export import onnx as onnx_room
from finetune.export.encoder import export_encoder
from finetune.export.onnx import made_up_images
from finetune.files.replacement import finish_replacement
from finetune.images.pixels import normalize, pixel_values
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.patches import embed_patches

TEXTS = ["a red car", "two dogs on a beach " * 9, "", "unseen wörds 123 🙂", "two red circles"]


@pytest.fixture
def dual(clip_folder):
    return load_dual_encoder(clip_folder)


@dataclass(frozen=True)
class Exported:
    """An encoder folder that tests only read, and the model that it is of."""

    dual: DualEncoder
    folder: Path
    description: EncoderDescription


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Exported]:
    """By family."""
    root = tmp_path_factory.mktemp("exported")
    made = {}
    for family, save in (("clip", save_clip), ("siglip", save_siglip)):
        save(root / family)
        dual = load_dual_encoder(root / family)
        out = root / f"{family} encoder"
        made[family] = Exported(dual, out, export_encoder(dual, out))
    return made


@pytest.fixture
def old(exported, tmp_path) -> Path:
    """A folder that an export is to replace."""
    return shutil.copytree(exported["clip"].folder, tmp_path / "encoder")


@pytest.fixture
def picture():
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, size=(50, 70, 3), dtype=np.uint8))


def run_towers(folder, description, batch, pixels):
    """As a reader without torch does, from the folder alone."""
    text = onnxruntime.InferenceSession(folder / "onnx/text.onnx")
    image = onnxruntime.InferenceSession(folder / "onnx/image.onnx")
    ids, mask = (array.astype(np.int64) for array in batch)
    return (
        text.run(["text_embeds"], {"input_ids": ids, "attention_mask": mask})[0],
        image.run(["image_embeds"], {"pixel_values": pixels})[0],
    )


def test_what_is_in_the_folder(dual, tmp_path) -> None:
    out = tmp_path / "made" / "encoder"
    (tmp_path / "history.csv").write_text("step,loss\n")
    (tmp_path / "loss.png").write_bytes(b"png")
    metrics = {"after": [], "split": "val"}
    description = export_encoder(
        dual,
        out,
        metrics=metrics,
        recipe={"epochs": 3},
        files=[tmp_path / "history.csv", tmp_path / "loss.png"],
    )
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert sorted(names) == [
        ".clipsearch.json", "README.md", "config.json", "encoder.json", "history.csv", "loss.png",
        "metrics.json", "model.safetensors", "onnx/image.onnx", "onnx/patches.onnx",
        "onnx/text.onnx", "preprocessor_config.json", "recipe.yaml", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert read_description(out) == description
    check_fingerprint(out, description)
    assert (description.name, description.dimension, description.max_tokens) == ("encoder", 24, 20)
    assert set(description.onnx_max_difference) == {"text", "image", "patch"}
    assert 0 < max(description.onnx_max_difference.values()) < 1e-5
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == {"epochs": 3}
    assert [path.name for path in out.parent.iterdir()] == ["encoder"]
    assert len({path.stat().st_mode for path in out.rglob("*") if path.is_file()}) == 1
    assert [name for name in names if not ENCODER_FOLDER.writes(name)] == [".clipsearch.json"]


def test_interface_of_the_towers(exported) -> None:
    folder = exported["clip"].folder
    for name, inputs, output in (
        ("text", {"input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}, "text"),
        ("image", {"pixel_values": ["batch", 3, 32, 32]}, "image"),
    ):
        path = folder / "onnx" / f"{name}.onnx"
        onnx.checker.check_model(path, full_check=True)
        assert onnx.load(path).opset_import[0].version == 17
        session = onnxruntime.InferenceSession(path)
        assert {i.name: i.shape for i in session.get_inputs()} == inputs
        assert [(o.name, o.shape) for o in session.get_outputs()] == [
            (f"{output}_embeds", ["batch", 24])
        ]
    patches = onnxruntime.InferenceSession(folder / "onnx" / "patches.onnx")
    assert {i.name: i.shape for i in patches.get_inputs()} == {"pixel_values": ["batch", 3, 32, 32]}
    (output,) = patches.get_outputs()
    assert (output.name, output.shape) == ("patch_embeds", ["batch", 2, 2, 24])


@torch.inference_mode()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_patches_are_those_of_torch_and_change_no_fingerprint(family, exported, tmp_path) -> None:
    dual, description = exported[family].dual, exported[family].description
    out = shutil.copytree(exported[family].folder, tmp_path / "encoder")
    pixels = made_up_images(dual.preprocessing, 3)
    expected = embed_patches(dual, torch.from_numpy(normalize(pixels, dual.preprocessing)))
    found = Encoder.load(out).encode_patches(pixels)
    assert found.shape == (3, 2, 2, description.dimension)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(Encoder.load(out).encode_patches(pixels[:1]), found[:1], atol=1e-6)
    (out / PATCH_TOWER).unlink()
    assert fingerprint(out) == description.fingerprint
    again = export_encoder(load_dual_encoder(out), tmp_path / "again")
    assert again.fingerprint == description.fingerprint
    assert (tmp_path / "again" / PATCH_TOWER).is_file()


@torch.inference_mode()
def test_plain_transformers_gives_the_same_embeddings(exported, picture) -> None:
    made = exported["clip"]
    dual, out, description = made.dual, made.folder, made.description
    model, processor = CLIPModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = processor(
        text=TEXTS, images=[picture, picture.rotate(90)], padding=True, truncation=True,
        max_length=20, return_tensors="pt",
    )  # fmt: skip
    expected = model(**inputs)
    pixels = np.stack([pixel_values(p, dual.preprocessing) for p in (picture, picture.rotate(90))])
    np.testing.assert_allclose(pixels, inputs.pixel_values.numpy(), atol=1e-5)
    batch = inputs.input_ids.numpy(), inputs.attention_mask.numpy()
    texts, images = run_towers(out, description, batch, pixels)
    np.testing.assert_allclose(texts, expected.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(images, expected.image_embeds.numpy(), atol=1e-5)


@torch.inference_mode()
def test_siglip(exported, picture) -> None:
    made = exported["siglip"]
    dual, out, description = made.dual, made.folder, made.description
    assert (description.family, description.pad_to_max, description.max_tokens) == (
        "siglip", True, 16,
    )  # fmt: skip
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = processor(
        text=TEXTS, images=[picture], padding="max_length", truncation=True, max_length=16,
        return_tensors="pt",
    )  # fmt: skip
    expected = model(input_ids=inputs.input_ids, pixel_values=inputs.pixel_values)
    pixels = pixel_values(picture, dual.preprocessing)[np.newaxis]
    # Padded to the full length by the caller, or left short: the tower fills it.
    full = dual.tokenize(TEXTS)
    short = [(ids[mask > 0][None].numpy(), mask[mask > 0][None].numpy())
             for ids, mask in zip(*full, strict=True)]  # fmt: skip
    texts, images = run_towers(out, description, [array.numpy() for array in full], pixels)
    np.testing.assert_allclose(texts, expected.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(images, expected.image_embeds.numpy(), atol=1e-5)
    for row, batch in enumerate(short):
        found, _ = run_towers(out, description, batch, pixels)
        np.testing.assert_allclose(found[0], texts[row], atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_searching_without_torch_gives_the_same_embeddings(family, picture, exported) -> None:
    dual = exported[family].dual
    encoder = Encoder.load(exported[family].folder)
    expected = dual.embed_texts(*dual.tokenize(TEXTS))
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    pixels = torch.from_numpy(pixel_values(picture, dual.preprocessing))[None]
    found = encoder.encode_images([picture])
    np.testing.assert_allclose(found, dual.embed_images(pixels), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_batches_and_lengths(exported, count) -> None:
    made = exported["clip"]
    dual, out, description = made.dual, made.folder, made.description
    pixels = np.zeros((count, 3, 32, 32), np.float32)
    for text in ("", "red", "red " * 9, "red " * 40):
        ids, mask = dual.tokenize([text, *["blue"] * (count - 1)])
        found, images = run_towers(out, description, (ids.numpy(), mask.numpy()), pixels)
        with torch.inference_mode():
            np.testing.assert_allclose(found, dual.embed_texts(ids, mask), atol=1e-5)
        assert images.shape == (count, 24)


def test_plain_transformers_cuts_texts_at_the_same_place(clip_folder, tmp_path) -> None:
    out = tmp_path / "encoder"
    description = export_encoder(load_dual_encoder(clip_folder, max_tokens=7), out)
    assert description.max_tokens == load_dual_encoder(out).max_tokens == 7
    inputs = AutoProcessor.from_pretrained(out)(text=["red " * 50], truncation=True)
    assert len(inputs.input_ids[0]) == 7


def test_an_encoder_folder_is_a_checkpoint(exported, tmp_path) -> None:
    again = export_encoder(load_dual_encoder(exported["clip"].folder), tmp_path / "again")
    # The same weights have the same fingerprint: nothing would be encoded again.
    assert again.fingerprint == exported["clip"].description.fingerprint


def test_the_last_batch_leaves_no_trace_in_the_tokenizer(dual, exported, tmp_path) -> None:
    dual.tokenize(["red " * 50, "blue"])
    second = export_encoder(dual, tmp_path / "second")
    assert second.fingerprint == exported["clip"].description.fingerprint
    saved = json.loads((tmp_path / "second" / "tokenizer.json").read_text())
    assert saved["truncation"] is saved["padding"] is None


def test_a_copy_has_the_same_fingerprint(tmp_path) -> None:
    # made here, not loaded: what its configuration lacks is added when it is read
    made = load_dual_encoder("tiny", ["a red square", "a blue circle"])
    first = export_encoder(made, tmp_path / "first")
    copy = export_encoder(load_dual_encoder(tmp_path / "first"), tmp_path / "copy")
    assert copy.fingerprint == first.fingerprint


def test_other_weights_have_another_fingerprint(dual, exported, tmp_path) -> None:
    with torch.no_grad():
        dual.model.text_projection.weight[0, 0] += 0.01
    second = export_encoder(dual, tmp_path / "second")
    assert second.fingerprint != exported["clip"].description.fingerprint


def test_towers_that_differ_are_refused(dual, exported, old, monkeypatch) -> None:
    trace = onnx_room._trace

    def spoil(tower, path, **how) -> None:
        with torch.no_grad():
            for parameter in tower.parameters():
                parameter.mul_(1.05)
        trace(tower, path, **how)
        with torch.no_grad():
            for parameter in tower.parameters():
                parameter.div_(1.05)

    monkeypatch.setattr(onnx_room, "_trace", spoil)
    with pytest.raises(ClipsearchError, match=r"the ONNX text tower differs from torch by .* more"):
        export_encoder(dual, old)
    assert_only_the_old(old, exported)


def test_weights_that_are_not_finite_are_refused(dual, tmp_path) -> None:
    with torch.no_grad():
        dual.model.visual_projection.weight[0, 0] = float("nan")
    with pytest.raises(ClipsearchError, match="image tower differs from torch by nan"):
        export_encoder(dual, tmp_path / "encoder")


def test_real_inputs_are_compared(dual, tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        onnx_room, "_compare_texts", lambda path, dual, texts: seen.append(texts) or 0.0
    )
    monkeypatch.setattr(
        onnx_room, "_compare_images", lambda path, dual, embed, pixels: seen.append(pixels) or 0.0
    )
    pixels = made_up_images(dual.preprocessing, 3)
    export_encoder(dual, tmp_path / "encoder", check_texts=["a red car"], check_pixels=pixels)
    assert seen[0] == ["a red car"]
    assert seen[1] is seen[2] is pixels


def test_a_tower_above_2_gb(dual, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_room, "MOST_TOWER_BYTES", 1000)
    with pytest.raises(ClipsearchError, match=r"ONNX file holds at most 2; take a smaller model"):
        export_encoder(dual, tmp_path / "encoder")


def test_a_folder_of_something_else_is_not_replaced(dual, tmp_path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="has files in it but is no encoder folder"):
        export_encoder(dual, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="is a file"):
        export_encoder(dual, tmp_path / "thesis" / "chapter.txt")


def run_export(source, out, before) -> subprocess.CompletedProcess[str]:
    """Export in a process of its own, after the statements `before`."""
    code = f"""
        import os, resource, signal, sys
        from finetune.export import encoder as export
        from finetune.files import replacement
        from finetune.errors import ClipsearchError
        from finetune.models.dual_encoder import load_dual_encoder
        dual = load_dual_encoder(sys.argv[1])
        {before}
        try:
            export.export_encoder(dual, sys.argv[2], name="new")
        except ClipsearchError as error:
            sys.exit(str(error))
    """
    return subprocess.run(
        [*CODE, textwrap.dedent(code), str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_kill_9_leaves_the_old_folder_whole(dual, exported, old, tmp_path) -> None:
    kill = "replacement._replace = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"
    assert run_export(tmp_path / "clip", old, kill).returncode == -signal.SIGKILL
    assert contents(old) == contents(exported["clip"].folder)
    # The next export clears up.
    export_encoder(dual, old, name="next")
    assert read_description(old).name == "next"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "encoder"]


def test_kill_9_between_the_two_renames_is_mended(exported, old, tmp_path) -> None:
    old.rename(tmp_path / ".encoder.old")
    finish_replacement(old, ENCODER_FOLDER)
    assert contents(old) == contents(exported["clip"].folder)
    # And after the second rename the old one is only rubbish.
    shutil.copytree(old, tmp_path / ".encoder.old")
    finish_replacement(old, ENCODER_FOLDER)
    assert not (tmp_path / ".encoder.old").exists()


def test_a_full_disk_leaves_the_old_folder_whole(dual, exported, old, tmp_path) -> None:
    # No file may grow beyond this, so that the weights cannot be written.
    full = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    )
    done = run_export(tmp_path / "clip", old, full)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert_only_the_old(old, exported)


@pytest.mark.parametrize("moment", ["_write_json", "_trace", "write_description", "model_card"])
def test_any_write_may_fail(dual, exported, old, monkeypatch, moment) -> None:
    def fail(*arguments, **options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_room if moment == "_trace" else export_room, moment, fail)
    with pytest.raises(ClipsearchError, match=r"could not be written .*No space left on device"):
        export_encoder(dual, old)
    assert_only_the_old(old, exported)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_only_the_old(old, exported) -> None:
    assert contents(old) == contents(exported["clip"].folder)
    assert sorted(path.name for path in old.parent.iterdir()) == ["clip", "encoder"]


def test_the_fingerprint_is_that_of_the_files(old) -> None:
    before = read_description(old).fingerprint
    (old / "README.md").write_text("another card")
    assert fingerprint(old) == before
    (old / "tokenizer.json").write_text("{}")
    assert fingerprint(old) != before


def test_help_has_examples_and_loads_no_torch() -> None:
    code = (
        "import sys, clipsearch.cli.export as e; e.export(['--help'], standalone_mode=False);"
        " assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "clipsearch export openai/clip-vit-base-patch32" in done.stdout
