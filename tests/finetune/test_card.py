"""The model card: what the hub reads, and the run's own figures."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from finetune.card import model_card
from finetune.encoder_folder import EncoderDescription, Preprocessing
from finetune.metrics import in_batches, text_to_image

DESCRIPTION = EncoderDescription(
    family="clip",
    name="birds",
    dimension=512,
    max_tokens=77,
    pad_to_max=False,
    pad_token_id=1,
    preprocessing=Preprocessing(
        224, 224, "shortest-edge", 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    ),
    onnx_max_difference={"text": 1.5e-7, "image": 2e-7},
    fingerprint="ab" * 32,
    base_model="openai/clip-vit-base-patch32",
)


def metadata(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_metadata_of_the_hub() -> None:
    assert metadata(model_card(DESCRIPTION)) == {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clipsearch", "clip", "image-search", "onnx"],
        "base_model": "openai/clip-vit-base-patch32",
    }
    assert metadata(model_card(DESCRIPTION, license="mit"))["license"] == "mit"


@pytest.mark.parametrize("base", ["tiny", "", "/home/ann/clip", "../clip", "a/b/c"])
def test_a_base_that_the_hub_does_not_have(base) -> None:
    card = model_card(replace(DESCRIPTION, base_model=base))
    assert "base_model" not in metadata(card)
    assert "/home/ann" not in card


def test_a_folder_named_like_an_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    assert "base_model" not in metadata(model_card(replace(DESCRIPTION, base_model="models/clip")))


def test_figures_before_and_after_with_pool_and_scope() -> None:
    images = np.eye(128, dtype=np.float32)
    texts, owners = images[::-1].copy(), np.arange(128)
    before = [text_to_image(texts, images, owners).as_dict()]
    after = [
        text_to_image(images, images, owners).as_dict(),
        in_batches(images, images, owners).as_dict(),
    ]
    card = model_card(DESCRIPTION, metrics={"before": before, "after": after, "split": "test"})
    assert "**text-to-image**, global, pool of 128, 128 queries" in card
    assert "**text-to-image**, in batches of 64, pool of 64, 128 queries" in card
    assert "| mrr@10 | 0.000 | 1.000 |" in card
    assert "| mrr@10 in batches of 64 | – | 1.000 |" in card
    assert f"| mean_rank | {before[0]['mean_rank']:.3f} | 1.000 |" in card
    assert "on the split `test`, which was not trained on." in card
    val = model_card(DESCRIPTION, metrics={"after": after, "split": "val"})
    assert "`val`, which was not trained on but by which the best weights were chosen." in val


def test_data_and_recipe(tmp_path) -> None:
    card = model_card(
        DESCRIPTION,
        metrics={
            "data": {"train": {"images": 1900, "captions": 3800}, "val": {"images": 100}},
            "training": {"steps": 250, "stopped early": True},
        },
        recipe={"manifest": str(tmp_path / "birds.csv"), "lr": 1e-5, "images": None, "note": "a|b"},
        plots=["loss.png"],
    )
    assert "| split | images | captions |" in card
    assert "| train | 1,900 | 3,800 |" in card
    assert "| val | 100 | – |" in card
    assert "| manifest | birds.csv |" in card
    assert str(tmp_path) not in card
    assert "| lr | 1e-05 |" in card
    assert "| note | a\\|b |" in card
    assert "| steps | 250 |" in card
    assert "![loss](loss.png)" in card
    assert "fine-tuned from [openai/clip-vit-base-patch32]" in card


def test_without_a_run_nothing_is_claimed() -> None:
    card = model_card(DESCRIPTION)
    assert "without training" in card
    for heading in ("## Figures", "## Data", "## Training"):
        assert heading not in card
    assert "text 1.5e-07, image 2.0e-07" in card
    assert DESCRIPTION.fingerprint in card


def test_use_of_a_tower_that_needs_its_full_length() -> None:
    assert "padding=True" in model_card(DESCRIPTION)
    assert 'padding="max_length"' in model_card(replace(DESCRIPTION, pad_to_max=True))
