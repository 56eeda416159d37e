"""`clipsearch export --precision`: smaller ONNX towers, and what they cost."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from squares import write_squares
from tiny_checkpoints import save_clip, save_roberta, save_siglip

from clipsearch.encoder.encoder import Encoder
from clipsearch.evaluation.tower_precision import precision_cost
from finetune.encoder_folder import IMAGE_TOWER, TEXT_TOWER, check_fingerprint, read_description
from finetune.export.encoder import export_encoder
from finetune.images.pixels import load_pixels
from finetune.manifest.manifest import Manifest
from finetune.models.dual_encoder import load_dual_encoder, load_two_towers
from finetune.models.tiny import TinySize

LARGER = TinySize(image_size=32, width=128, mlp_width=512, heads=4, projection=64, max_tokens=20)


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, "export", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder, size=LARGER)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=4, val=20)


def tower_bytes(folder: Path) -> int:
    return sum((folder / tower).stat().st_size for tower in (TEXT_TOWER, IMAGE_TOWER))


def naive_cost(folder: Path, manifest: Path) -> tuple[float, float, float, float]:
    """Least cosines of texts and images, and recall@10 in fp32 and less, one caption at a time."""
    with Manifest.open(manifest) as opened:
        records = list(opened.records("val"))
    captions = sorted({caption for record in records for caption in record.captions})
    by_precision = []
    for device in ("torch-cpu", "cpu"):
        encoder = Encoder.load(folder, device=device)
        pixels = [load_pixels(record.image, encoder.preprocessing) for record in records]
        by_precision.append(
            (encoder.encode_texts(captions), encoder.encode_pixels(np.stack(pixels)))
        )
    (texts, images), (small_texts, small_images) = by_precision
    recalls = []
    for text_embeds, image_embeds in by_precision:
        hits = []
        for caption, embedding in zip(captions, text_embeds, strict=True):
            order = np.argsort(-(image_embeds @ embedding), kind="stable")[:10]
            own = {row for row, record in enumerate(records) if caption in record.captions}
            hits.append(len(own & set(order.tolist())) / len(own))
        recalls.append(float(np.mean(hits)))
    return (
        float((texts * small_texts).sum(axis=1).min()),
        float((images * small_images).sum(axis=1).min()),
        *recalls,
    )


@pytest.mark.parametrize(
    ("precision", "share"),
    [pytest.param("fp16", 0.6, marks=pytest.mark.slow), ("int8", 0.45)],
)
def test_towers_are_smaller_and_their_cost_is_told(
    checkpoint, manifest, tmp_path, precision, share
) -> None:
    export_encoder(load_dual_encoder(checkpoint), tmp_path / "whole")
    out = tmp_path / "small"
    arguments = ("--out", out, "--precision", precision, "--measure-on", manifest)
    done = export(checkpoint, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    told = json.loads(done.stdout)
    assert told["precision"] == precision
    assert tower_bytes(out) < share * tower_bytes(tmp_path / "whole")
    description = read_description(out)
    assert description.precision == precision
    check_fingerprint(out, description)
    assert description.fingerprint != read_description(tmp_path / "whole").fingerprint
    assert f"They are in {precision}" in (out / "README.md").read_text(encoding="utf-8")
    cost = told["precision_cost"]
    texts, images, exact, smaller = naive_cost(out, manifest)
    assert cost["texts"]["least"] == pytest.approx(texts, abs=1e-5)
    assert cost["images"]["least"] == pytest.approx(images, abs=1e-5)
    assert 0.98 < min(texts, images) < 1
    assert cost["pool"] == cost["images"]["count"] == 20
    assert cost["recall_in_fp32"] == pytest.approx(exact, abs=0.1)
    assert cost["recall"] == pytest.approx(smaller, abs=0.1)


@pytest.mark.slow
def test_without_a_manifest_made_up_images_are_compared_and_it_says_so(
    checkpoint, tmp_path
) -> None:
    done = export(checkpoint, "--out", tmp_path / "small", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "cosine of int8 to fp32, 16 images: least 0.9" in done.stdout
    assert "These were made up; --measure-on MANIFEST measures yours" in done.stdout


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("clip", "fp16"),
        pytest.param("siglip", "int8", marks=pytest.mark.slow),
        ("two towers", "int8"),
    ],
)
def test_all_families_can_be_smaller(family, precision, checkpoint, tmp_path) -> None:
    if family == "clip":
        dual = load_dual_encoder(checkpoint)
    elif family == "siglip":
        save_siglip(tmp_path / "model")
        dual = load_dual_encoder(tmp_path / "model")
    else:
        save_clip(tmp_path / "clip")
        save_roberta(tmp_path / "roberta")
        dual = load_two_towers(tmp_path / "clip", tmp_path / "roberta", projection=16)
    export_encoder(dual, tmp_path / "out", precision=precision)
    cost = precision_cost(tmp_path / "out", None)
    assert min(cost.texts.least, cost.images.least) > 0.95
    assert cost.recall is None


def test_an_encoder_in_fp32_is_described_as_before(checkpoint, tmp_path) -> None:
    export_encoder(load_dual_encoder(checkpoint), tmp_path / "out")
    assert "precision" not in json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert read_description(tmp_path / "out").precision == "fp32"


def test_what_cannot_be_is_refused_before_anything_is_loaded(tmp_path) -> None:
    for arguments, reason in (
        (("--measure-on", tmp_path / "no.csv"), "--measure-on says what --precision"),
        (("--precision", "int8", "--open-clip", tmp_path / "o"), "--open-clip writes none"),
        (("--precision", "int8", "--measure-on", tmp_path / "no.csv"), "no.csv"),
    ):
        done = export(tmp_path / "nothing", *arguments)
        assert done.returncode in (1, 2)
        assert reason in done.stderr
        assert "Loading" not in done.stderr
