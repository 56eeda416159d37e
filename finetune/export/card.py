"""The model card: README.md of the encoder folder, as the Hugging Face hub renders it.

Headings are those of the hub's template:
https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/templates/modelcard_template.md
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.encoder_folder import CHANGES_IMAGE, EncoderDescription
from finetune.export.card_facts import NOT_GIVEN, CardFacts
from finetune.export.card_metadata import (
    is_hub_id,
    manifest_names,
    measured,
    metadata_block,
)
from finetune.export.card_run import report_sections
from finetune.export.card_tables import cell, pairs, size
from finetune.figures import TASKS
from finetune.towers import FP32, TWO_TOWERS


def model_card(
    description: EncoderDescription,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    plots: Sequence[str] = (),
    facts: CardFacts | None = None,
    sizes: Mapping[str, int] | None = None,
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
            `run`: what it took, `RunCost.as_dict()` and `machine_facts` of
                `finetune.training.run_cost`;
            `recipe`: of a published system `name`, `description`, `source` (addresses) and
                `published`, rows of `finetune.config.recipes.published_beside`;
            `impact`: `kg_co2eq`, `kwh` and `seconds` of training, `region`, and, where they are an
                estimate, the `watts` and `grams_a_kwh` that it follows from.
        recipe: The run's settings; None where nothing was trained.
        plots: File names of images beside the card.
        facts: What the user says; what they leave out is taken from the recipe.
        sizes: Bytes of the files of weights beside the card, by name.
    """
    metrics = metrics or {}
    trained = recipe is not None
    facts = (facts or CardFacts()).over(CardFacts.of(recipe))
    training, evaluation, published, impact, *rest = report_sections(metrics, recipe, facts)
    parts = [
        metadata_block(description, metrics, facts, trained),
        _introduction(description, trained),
        model_details(description.base_model, facts),
        USES,
        _start(description),
        _limits(description, metrics, trained),
        training,
        evaluation,
        _plots(plots),
        published,
        impact,
        _technical(description, sizes or {}),
        *rest,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_details(base_model: str, facts: CardFacts) -> str:
    """Write what the model is, for people; the metadata block says the same for the hub."""
    rows = {
        "license of the weights": facts.license or NOT_GIVEN,
        "language": ", ".join(facts.language) or NOT_GIVEN,
        "started from": "random weights" if base_model == "tiny" else _shown_model(base_model),
        "made with": "clipsearch",
    }
    return f"## Model details\n\n{pairs(('', ''), rows)}"


USES = """## Uses

### Direct use

Search for pictures by text, for texts by picture, and for pictures by picture, in a collection of \
the kind that the encoder was trained on; classification by prompts.

### Out-of-scope use

- To identify people, or to sort or judge them by how they look.
- To decide without a person who looks: a diagnosis, who gets access, what is removed.
- Collections, wordings or languages that it was not measured on, before it was measured on them."""


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


def _start(description: EncoderDescription) -> str:
    padding = '"max_length"' if description.pad_to_max else "True"
    return f"""## How to get started with the model

Search your own pictures with clipsearch, without torch:

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
    data = cell(_listed(manifest_names(metrics))) or "its training data"
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
    return "## Bias, risks and limitations\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _by_size(pools: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the largest first; directions in the order in which they are always told."""
    return sorted(pools, key=lambda pool: (-pool[1], list(TASKS).index(pool[0])))


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _plots(plots: Sequence[str]) -> str:
    # The sheet of changed queries shows the user's images: it is not uploaded with the card.
    shown = [name for name in plots if name != CHANGES_IMAGE]
    return "\n\n".join(f"![{Path(name).stem}]({name})" for name in shown)


def _technical(description: EncoderDescription, sizes: Mapping[str, int]) -> str:
    pre = description.preprocessing
    differences = ", ".join(
        f"{tower} {difference:.1e}" for tower, difference in description.onnx_max_difference.items()
    )
    precision = ""
    if description.precision != FP32:
        precision = f" They are in {description.precision}; the checkpoint is in float32."
    text = f"""## Technical specifications

- Pictures: {pre.height}×{pre.width} pixels, {pre.resample}, {pre.resize}; texts: at most \
{description.max_tokens} tokens.
- The towers in `onnx/` were compared with torch on export; largest difference of a value: \
{differences}.{precision}
- Fingerprint: `{description.fingerprint}`."""
    return f"{text}\n\n{size_table(sizes)}" if sizes else text


def size_table(sizes: Mapping[str, int]) -> str:
    """Write the sizes of the files of weights."""
    return pairs(("file", "size"), {f"`{name}`": size(number) for name, number in sizes.items()})
