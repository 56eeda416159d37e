"""The model card: README.md of the encoder folder, as the Hugging Face hub renders it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.encoder_folder import CHANGES_IMAGE, EncoderDescription
from finetune.export.card_metadata import (
    is_hub_id,
    manifest_names,
    measured,
    metadata_block,
    pool_of,
    without_places,
)
from finetune.figures import TASKS
from finetune.towers import FP32, TWO_TOWERS

# As the hub writes what nobody has said yet.
NEEDED = "[More Information Needed]"


def model_card(
    description: EncoderDescription,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    plots: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """Write the card as Markdown, with the hub's metadata block and the run's own figures.

    Args:
        description: Of the encoder.
        metrics: Any of these, all of which are JSON:
            `after` and `before`: lists of `Measurement.as_flat_dict()` with and without training;
            `split`: which part of the data they were measured on;
            `manifests`: a list of mappings with `name` and what else there is to tell of each
                (`images`, `captions`, `weight`);
            `data`: by split a mapping of counts ({"train": {"images": 900, "captions": 1800}});
            `training`: what is worth telling of the run (steps, device);
            `recipe`: of a published system `name`, `description`, `source` (addresses) and
                `published`, rows of `finetune.config.recipes.published_beside`;
            `impact`: `kg_co2eq`, `kwh` and `seconds` of training;
            `hub`: lists `datasets` (ids), `language` (codes) and `tags` for the metadata block.
        recipe: The run's settings.
        plots: File names of images beside the card.
        license: Of the weights; left out unless given, since it follows from base model and data.
    """
    metrics = metrics or {}
    trained = recipe is not None
    parts = [
        metadata_block(description, metrics, license, trained),
        _introduction(description, trained),
        _use(description),
        *report_sections(metrics, recipe),
        _plots(plots),
        _limits(description, metrics, trained),
        _technical(description, license),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def report_sections(
    metrics: Mapping[str, Any], recipe: Mapping[str, Any] | None, *, citation: str | None = None
) -> list[str]:
    """Write what is known of a run: figures, recipe, data, settings, carbon, citation.

    What a card should tell and nobody has said is NEEDED.
    `metrics` and `recipe` are those of `model_card`, `citation` is BibTeX, the recipe's own unless
    given. Empty sections are empty texts.
    """
    published = metrics.get("recipe") or {}
    return [
        _figures(metrics, trained=recipe is not None),
        _published(published),
        _data(metrics, trained=recipe is not None),
        _recipe(recipe or {}, metrics.get("training", {})),
        _impact(metrics.get("impact") or {}),
        _citation(published.get("citation") or "" if citation is None else citation),
    ]


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
    if is_hub_id(base):
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


def _figures(metrics: Mapping[str, Any], *, trained: bool) -> str:
    after = measured(metrics, "after")
    if not after:
        return f"## Figures\n\n{NEEDED}: nothing was measured." if trained else ""
    before = {pool_of(each): each.values() for each in measured(metrics, "before")}
    split = metrics.get("split")
    where = f" on the split `{split}`, which was not trained on" if split else ""
    if split == "val":
        where += " but by which the best weights were chosen"
    parts = [
        f"## Figures\n\nMeasured{where}. Equal scores count against the encoder; figures of pools"
        f" of different sizes cannot be compared."
    ]
    for each in after:
        rows = [
            f"| {name} | {_number(before.get(pool_of(each), {}).get(name))} | {_number(value)} |"
            for name, value in each.values().items()
        ]
        parts.append(
            f"**{each.task}**, {each.scope}, pool of {each.pool:,} {TASKS[each.task].candidates},"
            f" {each.queries:,} queries\n\n"
            "| figure | before | after |\n|---|---:|---:|\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _published(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return ""
    parts = [f"## Recipe\n\n`{recipe['name']}`: {recipe.get('description', '')}".rstrip(": ")]
    if source := recipe.get("source"):
        parts.append("\n".join(f"- <{address}>" for address in source))
    rows = recipe.get("published")
    if not rows:
        parts.append(f"Published figures: {NEEDED}; the sources give none.")
    if rows:
        parts.append(
            "Published figures beside those measured here, each with its pool. Unless the pictures"
            " are the same, compare before with after, not published with here.\n\n"
            "| figure | published before | published after | pool | here before | here after"
            " | pool | note |\n|---|---:|---:|---:|---:|---:|---:|---|\n"
            + "\n".join(map(_published_row, rows))
        )
    return "\n\n".join(parts)


def _published_row(row: Mapping[str, Any]) -> str:
    run = f" of {row['run']}" if row.get("run") else ""
    cells = [
        _cell(f"{row['direction']} {row['figure']}{run}"),
        _number(row.get("published before")),
        _number(row.get("published after")),
        _count(row.get("published pool")),
        _number(row.get("before")),
        _number(row.get("after")),
        _count(row.get("pool")),
        _cell(row.get("note") or ""),
    ]
    return f"| {' | '.join(cells)} |"


def _data(metrics: Mapping[str, Any], *, trained: bool) -> str:
    manifests = metrics.get("manifests") or ()
    splits = metrics.get("data") or {}
    tables = []
    if manifests:
        tables.append(
            _table("manifest", [(each["name"], _without_name(each)) for each in manifests])
        )
    if splits:
        tables.append(_table("split", list(splits.items())))
    if not tables and trained:
        tables = [NEEDED]
    return "\n\n".join(["## Data", *tables]) if tables else ""


def _without_name(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "name"}


def _table(kind: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Return a row for each mapping, a column for each of their keys."""
    names = list(dict.fromkeys(name for _, counts in rows for name in counts))
    lines = [
        " | ".join([_cell(without_places(label)), *(_count(counts.get(name)) for name in names)])
        for label, counts in rows
    ]
    head = f"| {' | '.join([kind, *names])} |\n|---|{'---:|' * len(names)}"
    return "\n".join([head, *(f"| {line} |" for line in lines)])


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _recipe(recipe: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    if not recipe and not training:
        return ""
    settings = {key: without_places(value) for key, value in recipe.items()} | dict(training)
    rows = [f"| {key} | {_cell(value)} |" for key, value in settings.items()]
    return "## Training\n\n| setting | value |\n|---|---|\n" + "\n".join(rows)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _impact(impact: Mapping[str, float]) -> str:
    if "kg_co2eq" not in impact:
        return ""
    minutes = round(impact["seconds"] / 60)
    took = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return (
        f"## Carbon\n\nThis run emitted {impact['kg_co2eq']:.3g} kg of CO₂ equivalent: it used"
        f" {impact['kwh']:.3g} kWh in {took}, as [codecarbon](https://codecarbon.io) estimates from"
        f" the power of the machine and the electricity of its region. Runs that were tried before"
        f" it are not counted."
    )


def _citation(bibtex: str) -> str:
    return f"## Citation\n\n```bibtex\n{bibtex}\n```" if bibtex else ""


def _limits(description: EncoderDescription, metrics: Mapping[str, Any], trained: bool) -> str:
    limits = []
    pools = {(each.task, each.pool) for each in measured(metrics, "after")}
    if pools:
        named = [f"{pool:,} {TASKS[task].candidates}" for task, pool in _by_size(pools)]
        limits.append(
            f"The figures hold for pools of {_listed(named)}; in a larger collection all of"
            f" them are worse."
        )
    if pools and metrics.get("split") == "val":
        limits.append(
            "The weights were chosen on the same pictures that they are measured on, so the figures"
            " flatter them a little; `clipsearch evaluate . MANIFEST --split test` measures on"
            " pictures that chose nothing."
        )
    data = _cell(_listed(manifest_names(metrics))) or "its training data"
    if description.base_model == "tiny":
        limits.append(f"It knows nothing but {data}, from which it was trained from scratch.")
    elif trained:
        limits.append(
            f"It was trained on {data} only: on other kinds of pictures, other wordings or other"
            f" languages it may be worse than what it came from. Measure on pictures of your own"
            f" before relying on it."
        )
    if description.base_model != "tiny":
        limits.append(
            f"What {_shown_model(description.base_model)} learned, mostly from pictures and texts"
            f" of the web, is still in it, social and cultural biases included: it is not made to"
            f" identify, sort or judge people."
        )
    limits.append(
        "A score is no probability. Every text has a nearest picture, also where none fits."
    )
    limits.append(f"Of a text, what is beyond {description.max_tokens} tokens is not read.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _by_size(pools: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the largest first; directions in the order in which they are always told."""
    return sorted(pools, key=lambda pool: (-pool[1], list(TASKS).index(pool[0])))


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _plots(plots: Sequence[str]) -> str:
    # The sheet of changed queries shows the user's images: it is not uploaded with the card.
    shown = [name for name in plots if name != CHANGES_IMAGE]
    return "\n\n".join(f"![{Path(name).stem}]({name})" for name in shown)


def _technical(description: EncoderDescription, license: str | None) -> str:
    pre = description.preprocessing
    differences = ", ".join(
        f"{tower} {difference:.1e}" for tower, difference in description.onnx_max_difference.items()
    )
    precision = ""
    if description.precision != FP32:
        precision = f" They are in {description.precision}; the checkpoint is in float32."
    return f"""## Technical

- Pictures: {pre.height}×{pre.width} pixels, {pre.resample}, {pre.resize}; texts: at most \
{description.max_tokens} tokens.
- The towers in `onnx/` were compared with torch on export; largest difference of a value: \
{differences}.{precision}
- Fingerprint: `{description.fingerprint}`.
- License of the weights: {license or NEEDED}."""
