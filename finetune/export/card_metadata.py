"""The metadata block of a model card, by which the hub lists, links and charts the model.

Keys and their meaning: https://huggingface.co/docs/hub/model-cards and, for `model-index` and
`co2_eq_emissions`, https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.encoder_folder import EncoderDescription
from finetune.export.card_facts import CardFacts
from finetune.figures import GLOBAL, TASKS, Measurement
from finetune.towers import TWO_TOWERS

HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
CHARTED_FIGURES = ("mrr@10", "recall@1", "recall@5", "recall@10", "ndcg@10", "hits@")
UNKNOWN_DATASET = "unknown"
GRAMS = 1000


def metadata_block(
    description: EncoderDescription, metrics: Mapping[str, Any], facts: CardFacts, trained: bool
) -> str:
    """Return the metadata as YAML between two lines of dashes.

    Args:
        description: Of the encoder.
        metrics: As for `finetune.export.card.model_card`.
        facts: What the user says.
        trained: Whether training was part of what made the encoder.
    """
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clipsearch", description.family, "image-search", "onnx"],
        **facts.metadata(),
    }
    if base_models := hub_ids(description.base_model):
        values["base_model"] = base_models[0] if len(base_models) == 1 else base_models
        if trained:
            values["base_model_relation"] = "finetune"
    if emissions := _emissions(metrics, description.base_model):
        values["co2_eq_emissions"] = emissions
    if results := _results(metrics, facts):
        values["model-index"] = [{"name": description.name, "results": results}]
    return "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True) + "---"


def hub_ids(base_model: str) -> list[str]:
    """Return the base models that the hub knows: two for a dual encoder of two single ones."""
    return [name for name in base_model.split(TWO_TOWERS) if is_hub_id(name)]


def is_hub_id(base_model: str) -> bool:
    """Return whether the hub may look the base model up: it refuses cards with a path there."""
    if base_model in ("", "tiny") or Path(base_model).is_dir():
        return False
    return HUB_ID.fullmatch(base_model) is not None


def measured(metrics: Mapping[str, Any], when: str) -> list[Measurement]:
    """Return what was measured "before" or "after" training.

    The keys are those of `finetune.export.card.model_card`.
    """
    return [Measurement.from_flat_dict(flat) for flat in metrics.get(when) or ()]


def pool_of(measurement: Measurement) -> tuple[str, str, int]:
    """Return what must be equal for figures to be compared."""
    return measurement.task, measurement.scope, measurement.pool


def manifest_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the data, without folders."""
    return [str(without_places(each["name"])) for each in metrics.get("manifests") or ()]


def without_places(value: Any) -> Any:
    """Return `value` with every path on somebody's disk cut to its last part.

    So others may see it.
    """
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    if not isinstance(value, (str, Path)) or not str(value):
        return value
    if isinstance(value, str) and TWO_TOWERS in value:
        return TWO_TOWERS.join(without_places(part) for part in value.split(TWO_TOWERS))
    path = Path(value)
    return path.name if path.is_absolute() or path.exists() else str(value)


def _results(metrics: Mapping[str, Any], facts: CardFacts) -> list[dict[str, Any]]:
    """Return one result a direction, its figures with their pools in their names."""
    dataset = {
        "type": (*facts.datasets, UNKNOWN_DATASET)[0],
        "name": ", ".join(manifest_names(metrics)) or "captioned images",
    }
    if split := metrics.get("split"):
        dataset["split"] = split
    charted: dict[str, list[dict[str, Any]]] = {}
    for each in measured(metrics, "after"):
        where = f"{each.scope}, pool of" if each.scope == GLOBAL else "pool of"
        charted.setdefault(each.task, []).extend(
            {
                "type": name,
                "value": round(value, 4),
                "name": f"{name}, {where} {each.pool:,}",
            }
            for name, value in each.values().items()
            if name.startswith(CHARTED_FIGURES)
        )
    return [
        {
            "task": dict(zip(("type", "name"), TASKS[task].hub, strict=True)),
            "dataset": dict(dataset),
            "metrics": figures,
        }
        for task, figures in charted.items()
        if figures
    ]


def _emissions(metrics: Mapping[str, Any], base_model: str) -> dict[str, Any]:
    impact = metrics.get("impact") or {}
    if "kg_co2eq" not in impact:
        return {}
    emissions = {
        "emissions": float(f"{impact['kg_co2eq'] * GRAMS:.4g}"),  # the hub counts in grams
        "source": "power and carbon intensity, by the user" if "watts" in impact else "codecarbon",
        "training_type": "pre-training" if base_model == "tiny" else "fine-tuning",
    }
    if region := impact.get("region"):
        emissions["geographical_location"] = region
    if hardware := (metrics.get("run") or {}).get("hardware"):
        emissions["hardware_used"] = hardware
    return emissions
