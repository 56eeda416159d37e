"""The model card: README.md of the encoder folder, as the Hugging Face hub renders it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.encoder_folder import EncoderDescription

SHOWN_FIGURES = ("mrr", "recall", "ndcg", "mean_rank", "median_rank")
# Between the two names of a dual encoder's base models.
TWO_TOWERS = " + "
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def model_card(
    description: EncoderDescription,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    plots: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """Markdown with the hub's metadata block and the run's own figures.

    Args:
        description: Of the encoder.
        metrics: Any of: `after` and `before`, lists of `RetrievalMetrics.as_dict()` with and
            without training; `split`, which part of the data they were measured on; `data`, by
            split a mapping of counts ({"train": {"images": 900, "captions": 1800}}); `training`,
            a mapping of what is worth telling of the run (steps, seconds, device).
        recipe: The run's settings.
        plots: File names of pictures beside the card.
        license: Of the weights; left out unless given, since it follows from base model and data.
    """
    metrics = metrics or {}
    parts = [
        _metadata(description, license),
        _introduction(description, trained=recipe is not None),
        _use(description),
        _figures(metrics),
        _data(metrics.get("data", {})),
        _recipe(recipe or {}, metrics.get("training", {})),
        _plots(plots),
        _technical(description),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(description: EncoderDescription, license: str | None) -> str:
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clipsearch", description.family, "image-search", "onnx"],
    }
    if license:
        values["license"] = license
    if base_models := hub_ids(description.base_model):
        values["base_model"] = base_models[0] if len(base_models) == 1 else base_models
    return "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True) + "---"


def hub_ids(base_model: str) -> list[str]:
    """The base models that the hub knows: two for a dual encoder of two single ones."""
    return [name for name in base_model.split(TWO_TOWERS) if _is_hub_id(name)]


def _is_hub_id(base_model: str) -> bool:
    """Whether the hub may look the base model up: it refuses cards with a path there."""
    if base_model in ("", "tiny") or Path(base_model).is_dir():
        return False
    return HUB_ID.fullmatch(base_model) is not None


def _introduction(description: EncoderDescription, trained: bool) -> str:
    base = description.base_model
    if base == "tiny":
        origin = "a small CLIP trained from scratch"
    elif trained:
        origin = f"fine-tuned from {_shown_model(base)}"
    else:
        origin = f"exported from {_shown_model(base)} without training"
        if TWO_TOWERS in base:
            origin += "; its projections into the common space are random, so train it first"
    return (
        f"# {description.name}\n\nA dual encoder of texts and pictures for image search:"
        f" {origin}. Both give unit vectors of {description.dimension} values; their dot product"
        f" says how well a text describes a picture."
    )


def _shown_model(base: str) -> str:
    if TWO_TOWERS in base:
        return " and ".join(_shown_model(name) for name in base.split(TWO_TOWERS))
    if _is_hub_id(base):
        return f"[{base}](https://huggingface.co/{base})"
    return f"`{Path(base).name}`" if base else "a checkpoint"


def _use(description: EncoderDescription) -> str:
    padding = '"max_length"' if description.pad_to_max else "True"
    return f"""## Use

Search your own pictures with [clipsearch](https://pypi.org/project/clipsearch/), without torch:

```sh
clipsearch feed photos.csv --encoder . --index photos.index
clipsearch query "two dogs on a beach" --index photos.index
```

Or load it in transformers, from this folder:

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("."), AutoProcessor.from_pretrained(".")
inputs = processor(
    text=["two dogs on a beach", "a red car"],
    images=Image.open("photo.jpg"),
    padding={padding},
    truncation=True,
    max_length={description.max_tokens},
    return_tensors="pt",
)
with torch.inference_mode():
    print(model(**inputs).logits_per_image.softmax(dim=-1))
```"""


def _figures(metrics: Mapping[str, Any]) -> str:
    after = metrics.get("after") or []
    if not after:
        return ""
    before = {_key(entry): entry for entry in metrics.get("before") or []}
    split = metrics.get("split")
    where = f" on the split `{split}`, which was not trained on" if split else ""
    if split == "val":
        where += " but by which the best weights were chosen"
    parts = [
        f"## Figures\n\nMeasured{where}. Equal scores count against the encoder; figures of pools"
        f" of different sizes cannot be compared."
    ]
    for entry in after:
        direction, scope, pool = _key(entry)
        rows = [
            f"| {name} | {_number(before.get(_key(entry), {}).get(name))} | {_number(value)} |"
            for name, value in entry.items()
            if name.startswith(SHOWN_FIGURES)
        ]
        parts.append(
            f"**{direction}**, {scope}, pool of {pool:,}, {entry['queries']:,} queries\n\n"
            "| figure | before | after |\n|---|---:|---:|\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


def _key(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    return entry["direction"], entry["scope"], entry["pool"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _data(data: Mapping[str, Mapping[str, int]]) -> str:
    if not data:
        return ""
    names = list(dict.fromkeys(name for counts in data.values() for name in counts))
    head = f"| split | {' | '.join(names)} |\n|---|{'---:|' * len(names)}"
    rows = [
        f"| {split} | " + " | ".join(f"{counts[n]:,}" if n in counts else "–" for n in names) + " |"
        for split, counts in data.items()
    ]
    return "## Data\n\n" + "\n".join([head, *rows])


def _recipe(recipe: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    if not recipe and not training:
        return ""
    settings = {key: without_places(value) for key, value in recipe.items()} | dict(training)
    rows = [f"| {key} | {_cell(value)} |" for key, value in settings.items()]
    return "## Training\n\n| setting | value |\n|---|---|\n" + "\n".join(rows)


def without_places(value: Any) -> Any:
    """Of every path on somebody's disk within `value` only the last part, for others to see."""
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


def _cell(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _plots(plots: Sequence[str]) -> str:
    return "\n\n".join(f"![{Path(name).stem}]({name})" for name in plots)


def _technical(description: EncoderDescription) -> str:
    pre = description.preprocessing
    differences = ", ".join(
        f"{tower} {difference:.1e}" for tower, difference in description.onnx_max_difference.items()
    )
    return f"""## Technical

- Pictures: {pre.height}×{pre.width} pixels, {pre.resample}, {pre.resize}; texts: at most \
{description.max_tokens} tokens.
- `onnx/text.onnx` and `onnx/image.onnx` were compared with torch on export; largest difference \
of a value: {differences}.
- Fingerprint: `{description.fingerprint}`."""
