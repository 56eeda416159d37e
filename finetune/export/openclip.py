"""Write an OpenCLIP checkpoint, as `open_clip.create_model("local-dir:FOLDER")` loads it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from finetune.encoder_folder import TOKENIZER_FILES
from finetune.errors import ClipsearchError, UsageError
from finetune.export.card import USES, model_details, size_table
from finetune.export.card_facts import CardFacts
from finetune.export.card_metadata import hub_ids
from finetune.export.card_run import RECIPE_FILE, report_sections
from finetune.export.encoder import check_folder, write_recipe
from finetune.files.ownership import FolderKind
from finetune.files.replacement import built_aside
from finetune.images.preprocessing import Preprocessing
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.lora import merge_lora
from finetune.models.openclip import CONFIG_FILE, WEIGHTS_FILE, has_standard_vocabulary
from finetune.models.openclip_weights import open_clip_model_config, to_open_clip
from finetune.models.pretrained import quiet_transformers
from finetune.text.strict_json import dumps

# As its README asks for.
OPEN_CLIP_CITATION = r"""@software{ilharco_gabriel_2021_5143773,
  author = {Ilharco, Gabriel and Wortsman, Mitchell and Wightman, Ross and Gordon, Cade and
            Carlini, Nicholas and Taori, Rohan and Dave, Achal and Shankar, Vaishaal and
            Namkoong, Hongseok and Miller, John and Hajishirzi, Hannaneh and Farhadi, Ali and
            Schmidt, Ludwig},
  title = {OpenCLIP},
  month = jul,
  year = 2021,
  doi = {10.5281/zenodo.5143773}
}"""

OPEN_CLIP_FOLDER = FolderKind(
    "OpenCLIP folder", (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES, "README.md", RECIPE_FILE)
)


def export_open_clip(
    dual: DualEncoder,
    out: str | Path,
    *,
    name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    facts: CardFacts | None = None,
    hub_id: str | None = None,
    yes: bool = False,
) -> None:
    """Write `out`: open_clip_config.json, open_clip_model.safetensors, tokenizer and a card.

    What was written is read again and compared to the bit before an older folder is replaced.

    Args:
        dual: A CLIP, on any device; LoRA adapters are merged into it first.
        out: The folder. An OpenCLIP folder that is there is replaced as a whole.
        name: For the card; the folder's name unless given.
        metrics, recipe: For the card: figures, data and settings of the run that the weights come
            from, as `finetune.export.card.model_card` takes them.
        facts: For the card, what no run can measure; what they leave out is taken from `recipe`.
        hub_id: "owner/name" where the folder will lie on the hub, if it will: open_clip then takes
            a tokenizer other than CLIP's own from there.
        yes: Replace a folder of an earlier version, which has no list of its files, too.

    Raises UsageError where the model is no CLIP or OpenCLIP has no such model or preprocessing,
    or where `out` holds something that is not ours; ClipsearchError where the disk is full.
    """
    out = Path(out).absolute()
    check_open_clip_out(out, yes=yes)
    merge_lora(dual)
    config = open_clip_config(dual, hub_id=hub_id)
    try:
        with built_aside(out, OPEN_CLIP_FOLDER, f"--open-clip {out}", yes=yes) as partial:
            state = {name: value.float().cpu() for name, value in dual.model.state_dict().items()}
            _write(dual, partial, config, to_open_clip(state, dual.model.config))
            if recipe is not None:
                write_recipe(partial, recipe)
            facts = (facts or CardFacts()).over(CardFacts.of(recipe))
            sizes = {WEIGHTS_FILE: (partial / WEIGHTS_FILE).stat().st_size}
            card = _card(dual, name or out.name, metrics or {}, recipe, facts, sizes)
            (partial / "README.md").write_text(card, encoding="utf-8")
            _check(dual, partial, state)
    except (OSError, SafetensorError) as error:
        raise ClipsearchError(
            f"{out}: the checkpoint could not be written ({error}); free some space or give"
            f" another folder; a checkpoint that was there before is untouched"
        ) from error


def check_open_clip_out(out: Path, *, yes: bool = False) -> None:
    """Raise UsageError where an export to `out` would destroy something else."""
    check_folder(out, OPEN_CLIP_FOLDER, CONFIG_FILE, f"--open-clip {out}", yes=yes)


def open_clip_config(dual: DualEncoder, *, hub_id: str | None = None) -> dict[str, Any]:
    """Return the content of open_clip_config.json.

    Raises UsageError where OpenCLIP cannot follow.
    """
    if dual.family != "clip":
        raise UsageError(
            f"--open-clip is for CLIP models, but {dual.base_model} is of the family {dual.family}"
        )
    model = open_clip_model_config(dual.model.config, int(dual.tokenizer.eos_token_id))
    if not has_standard_vocabulary(dual.tokenizer):
        # For a folder, open_clip takes the tokenizer that lies in it, whatever the name.
        model["text_cfg"]["hf_tokenizer_name"] = hub_id or "."
    if dual.logit_bias is not None:
        model["init_logit_bias"] = dual.logit_bias.item()
    return {"model_cfg": model, "preprocess_cfg": _preprocess_config(dual.preprocessing)}


def _preprocess_config(preprocessing: Preprocessing) -> dict[str, Any]:
    side = preprocessing.height
    is_whole = preprocessing.resize == "exact" or preprocessing.resize_to == side
    if preprocessing.width != side or not is_whole:
        raise UsageError(
            f"--open-clip: pictures are resized to {preprocessing.resize_to} and cropped to"
            f" {preprocessing.width}x{side}, but OpenCLIP resizes to the square that it crops"
        )
    if preprocessing.resample not in ("bicubic", "bilinear"):
        raise UsageError(
            f"--open-clip: pictures are resized with {preprocessing.resample}, but OpenCLIP has"
            f" bicubic and bilinear"
        )
    return {
        "size": side,
        "mode": "RGB",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.resample,
        "resize_mode": "squash" if preprocessing.resize == "exact" else "shortest",
        "fill_color": 0,
    }


def _write(
    dual: DualEncoder, folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    if dual.logit_bias is not None:
        tensors["logit_bias"] = dual.logit_bias.detach().float().cpu().clone()
    text = dumps(config, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    # safetensors lets nobody but the owner read, but a server may run as somebody else.
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    dual.tokenizer.backend_tokenizer.no_padding()
    dual.tokenizer.backend_tokenizer.no_truncation()
    with quiet_transformers():
        dual.tokenizer.save_pretrained(folder)


def _check(dual: DualEncoder, folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_dual_encoder(folder, max_tokens=dual.max_tokens).model.state_dict()
    for name, value in expected.items():
        if not torch.equal(found[name], value):
            raise ClipsearchError(
                f"{name} is another tensor after writing it in OpenCLIP's layout and reading it"
                f" again; this model cannot be written so"
            )


def _card(
    dual: DualEncoder,
    name: str,
    metrics: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    facts: CardFacts,
    sizes: Mapping[str, int],
) -> str:
    metadata: dict[str, Any] = {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "clipsearch", "image-search"],
        **facts.metadata(),
    }
    if base_models := hub_ids(dual.base_model):
        metadata["base_model"] = base_models[0]
        if recipe is not None:
            metadata["base_model_relation"] = "finetune"
    own = dict(metrics.get("recipe") or {})
    citation = "\n\n".join(filter(None, (own.get("citation"), OPEN_CLIP_CITATION)))
    sections = report_sections(metrics, recipe, facts, citation=citation)
    head = f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---

# {name}

A CLIP in OpenCLIP's layout. Load it from this folder:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.", context_length={dual.max_tokens})
```"""
    middle = [model_details(dual.base_model, facts), USES, size_table(sizes)]
    return "\n\n".join([head, *middle, *filter(None, sections)]) + "\n"
