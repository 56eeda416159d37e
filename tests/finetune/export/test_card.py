"""The model card: what the hub reads, and the run's own figures."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from captions_of_images import image_to_text
from huggingface_hub import ModelCard

from finetune.config.image_augmentation import AugmentConfig
from finetune.config.mapping import config_from_mapping
from finetune.config.recipes import PublishedFigure, Recipe, load_recipe, published_beside
from finetune.config.settings import TrainConfig
from finetune.encoder_folder import EncoderDescription
from finetune.evaluation.metrics import in_batches, text_to_image
from finetune.evaluation.zero_shot import zero_shot
from finetune.export.card import model_card
from finetune.export.card_facts import CardFacts
from finetune.export.card_run import changed_settings
from finetune.export.encoder import write_recipe
from finetune.images.preprocessing import Preprocessing

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

BATCHED = "mrr@10 in batches of 64"


def metadata(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def limits_of(card: str) -> str:
    return card.split("## Bias, risks and limitations")[1].split("\n## ")[0]


def test_metadata_of_the_hub() -> None:
    assert metadata(model_card(DESCRIPTION)) == {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clipsearch", "clip", "image-search", "onnx"],
        "base_model": "openai/clip-vit-base-patch32",
    }
    assert metadata(model_card(DESCRIPTION, facts=CardFacts(license="mit")))["license"] == "mit"


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
    before = [text_to_image(texts, images, owners).as_flat_dict()]
    after = [
        text_to_image(images, images, owners).as_flat_dict(),
        in_batches(images, images, owners).as_flat_dict(),
    ]
    card = model_card(DESCRIPTION, metrics={"before": before, "after": after, "split": "test"})
    assert "**text-to-image**, global, pool of 128 images, 128 queries" in card
    assert "**text-to-image**, in batches of 64, pool of 64 images, 128 queries" in card
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
        plots=["changes.png", "loss.png"],
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
    assert "changes.png" not in card
    assert "fine-tuned from [openai/clip-vit-base-patch32]" in card


def test_without_a_run_nothing_is_claimed() -> None:
    card = model_card(DESCRIPTION)
    assert "without training" in card
    for heading in ("## Evaluation", "## Training", "## Environmental", "## Compute"):
        assert heading not in card
    assert "text 1.5e-07, image 2.0e-07" in card
    assert DESCRIPTION.fingerprint in card


def test_use_of_a_tower_that_needs_its_full_length() -> None:
    assert "padding=True" in model_card(DESCRIPTION)
    assert 'padding="max_length"' in model_card(replace(DESCRIPTION, pad_to_max=True))


SIZES = {"model.safetensors": 605_200_000, "onnx/text.onnx": 254_000_000}
RUN = {
    "seconds": 5430.0, "step_seconds": 4000.0, "pairs": 1_000_000, "interruptions": 1,
    "since_step": 0, "gpu_bytes": 3 * 2**30, "resident_bytes": 2**30, "pairs_per_second": 250.0,
    "hardware": "H100 (80 GiB); EPYC, 16 cores", "processes": 2,
    "versions": {"python": "3.12.1", "torch": "2.9.0"},
}  # fmt: skip


def whole_card(tmp_path) -> tuple[str, dict]:
    """Of a run with all that there is to tell, and what it measured."""
    images = np.eye(128, dtype=np.float32)
    texts, owners = images.copy(), np.arange(128)
    texts[:32] = images[32:64]
    classes = zero_shot(images, np.roll(images[:30], 1, axis=0), owners % 30).as_flat_dict()
    after = [
        text_to_image(texts, images, owners).as_flat_dict(),
        image_to_text(texts, images, owners).as_flat_dict(),
        in_batches(texts, images, owners).as_flat_dict(),
        classes,
    ]
    recipe = Recipe(
        name="imageclef",
        description="CLIP for | captions",
        source=("https://example.org/paper",),
        published=(
            PublishedFigure(
                figure=BATCHED,
                direction="text-to-image",
                before=0.573,
                after=0.88,
                pool=64,
            ),
            PublishedFigure(
                figure="hits@1", direction="zero-shot", after=0.883, note="other pictures"
            ),
        ),
        settings={},
    )
    metrics = {
        "after": after,
        "split": "val",
        "manifests": [{"name": str(tmp_path / "birds.csv"), "images": 1900, "weight": 0.5}],
        "data": {"train": {"images": 1900, "captions": 3800}},
        "recipe": {
            "name": recipe.name,
            "description": recipe.description,
            "source": list(recipe.source),
            "published": published_beside(recipe, [], after),
        },
        "run": RUN,
        "impact": {"kg_co2eq": 0.01234567, "kwh": 0.05, "seconds": 5430.0, "region": "France"},
    }
    recipe = {"epochs": 3, "datasets": ["ann/birds"], "language": ["en", "de", "en"]}
    facts = CardFacts(license="mit", contact="ann@example.org")
    card = model_card(DESCRIPTION, metrics=metrics, recipe=recipe, facts=facts, sizes=SIZES)
    return card, {(each["direction"], name): v for each in after for name, v in each.items()}


def test_the_hub_reads_the_figures(tmp_path) -> None:
    text, figures = whole_card(tmp_path)
    data = ModelCard(text).data
    assert data.model_name == "birds"
    for result in data.eval_results:
        direction = result.task_type.removesuffix("-retrieval")
        if result.task_type == "zero-shot-image-classification":
            direction = "zero-shot"
        assert result.metric_value == round(figures[direction, result.metric_type], 4)
        assert result.dataset_type == "ann/birds"
        assert result.dataset_name == "birds.csv"
        assert result.dataset_split == "val"
    names = {result.metric_name for result in data.eval_results}
    assert {
        "mrr@10, global, pool of 128",
        "mrr@10 in batches of 64, pool of 64",
        "hits@10, global, pool of 30",
    } <= names
    identifiers = [(each.task_type, each.metric_type) for each in data.eval_results]
    assert len(set(identifiers)) == len(identifiers) == 3 * 5 + 4
    # What the hub's own library writes of it is read again as the same.
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    assert again.to_dict() == data.to_dict()


def test_metadata_of_a_whole_run(tmp_path) -> None:
    block = metadata(whole_card(tmp_path)[0])
    assert block["datasets"] == ["ann/birds"]
    assert block["language"] == ["en", "de"]
    assert block["license"] == "mit"
    assert block["base_model_relation"] == "finetune"
    assert block["co2_eq_emissions"] == {
        "emissions": 12.35,  # grams
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": "France",
        "hardware_used": "H100 (80 GiB); EPYC, 16 cores",
    }


def test_sections_of_a_whole_run(tmp_path) -> None:
    card, figures = whole_card(tmp_path)
    assert str(tmp_path) not in card
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert headings == [
        "Model details", "Uses", "How to get started with the model",
        "Bias, risks and limitations", "Training details", "Evaluation", "Environmental impact",
        "Technical specifications", "Compute infrastructure", "Model card contact",
    ]  # fmt: skip
    assert "**zero-shot**, global, pool of 30 classes, 128 queries" in card
    assert "- <https://example.org/paper>" in card
    batched, hits = figures["text-to-image", BATCHED], figures["zero-shot", "hits@1"]
    assert f"| text-to-image {BATCHED} | 0.573 | 0.880 | 64 | – | {batched:.3f} | 64 |" in card
    assert f"| zero-shot hits@1 | – | 0.883 | – | – | {hits:.3f} | 30 | other pictures |" in card
    assert "| birds.csv | 1,900 | 0.5 |" in card
    assert "0.0123 kg of CO₂ equivalent: it used 0.05 kWh in 1 h 30 min" in card
    limits = limits_of(card)
    assert "pools of 128 images, 128 captions, 64 images and 30 classes" in limits
    assert "trained on birds.csv only" in limits
    assert "flatter them" in limits
    assert "[openai/clip-vit-base-patch32]" in limits


def test_limits_of_what_was_not_trained() -> None:
    limits = limits_of(model_card(DESCRIPTION))
    assert "social and cultural biases" in limits
    assert "trained on" not in limits and "The figures hold" not in limits
    tiny = limits_of(model_card(replace(DESCRIPTION, base_model="tiny"), recipe={}))
    assert "It knows nothing but its training data" in tiny
    assert "biases" not in tiny


def test_what_the_user_says_and_what_the_run_took(tmp_path) -> None:
    card, _ = whole_card(tmp_path)
    for line in (
        "| license of the weights | mit |",
        "| language | en, de, en |",
        "On the hub: [ann/birds](https://huggingface.co/datasets/ann/birds).",
        "## Model card contact\n\nann@example.org\n",
        "| duration | 1 h 30 min |",
        "| samples/s in the steps | 250.0 |",
        "| peak GPU memory, reserved by torch | 3.00 GiB |",
        "| peak resident memory of the process | 1.00 GiB |",
        "Summed up over interruptions",
        "first of 2 processes",
        "| `model.safetensors` | 605.2 MB |",
        "| hardware | H100 (80 GiB); EPYC, 16 cores |",
        "| torch | 2.9.0 |",
        "Region: France.",
    ):
        assert line in card


def test_what_nobody_said_is_not_made_up() -> None:
    card = model_card(DESCRIPTION, recipe={})
    assert {"license", "language", "datasets"}.isdisjoint(metadata(card))
    assert "| license of the weights | not given |" in card
    assert "| language | not given |" in card
    assert "On the hub: not given." in card
    assert "## Model card contact\n\nnot given\n" in card
    assert "Energy and emissions were not measured" in card
    assert "co2_eq_emissions" not in metadata(card)


def test_an_estimate_says_whose_figures_it_follows_from() -> None:
    impact = {"kwh": 0.6, "seconds": 7200.0, "watts": 300.0}
    power = model_card(DESCRIPTION, recipe={}, metrics={"impact": impact})
    assert "Emissions were not measured; this run used 0.6 kWh in 2 h 0 min" in power
    assert "estimated from a mean power of 300 W, as the user gave them. Region: not given" in power
    impact |= {"kg_co2eq": 0.03, "grams_a_kwh": 50.0}
    whole = model_card(DESCRIPTION, recipe={}, metrics={"impact": impact})
    assert "a mean power of 300 W and 50 g a kWh, as the user gave them" in whole
    source = metadata(whole)["co2_eq_emissions"]["source"]
    assert source == "power and carbon intensity, by the user"


def test_only_settings_that_differ_and_all_of_them_in_the_recipe(tmp_path) -> None:
    config = TrainConfig(
        manifest="birds.csv",
        model="tiny",
        epochs=3,
        augment=AugmentConfig(horizontal_flip=0.5),
        license="mit",
        out=tmp_path / "encoder",
    )
    assert changed_settings(config.as_dict()) == {
        "manifest": "birds.csv",
        "model": "tiny",
        "epochs": 3,
        "augment.horizontal_flip": 0.5,
    }
    write_recipe(tmp_path, config.as_dict())
    again = config_from_mapping(load_recipe(tmp_path / "recipe.yaml").settings)
    assert again.as_dict() == config.as_dict()
