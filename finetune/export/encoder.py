"""Write the encoder folder: a plain transformers checkpoint, ONNX towers, description and card.

The folder is built beside its place and renamed into it, so that a full disk or a kill leaves an
older encoder whole (`finetune.files.replacement`).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from finetune.arrays import Pixels
from finetune.encoder_folder import (
    DESCRIPTION_FILE,
    ENCODER_FOLDER,
    IMAGE_TOWER,
    PATCH_TOWER,
    TEXT_TOWER,
    WEIGHTS_FILE,
    EncoderDescription,
    fingerprint,
    write_description,
)
from finetune.errors import ClipsearchError, UsageError
from finetune.export.card import model_card
from finetune.export.card_facts import CardFacts
from finetune.export.card_run import RECIPE_FILE
from finetune.export.onnx import (
    compare_towers,
    tower_differences,
    write_image_tower,
    write_patch_tower,
    write_text_tower,
)
from finetune.export.tower_precision import lower_precision
from finetune.files.ownership import FolderKind, check_replaceable, read_mark
from finetune.files.replacement import built_aside
from finetune.images.processor_config import preprocessor_config
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.lora import merge_lora
from finetune.models.patches import gives_patches
from finetune.models.pretrained import quiet_transformers
from finetune.text.strict_json import dumps
from finetune.towers import FP32

TOWER_FILES = (TEXT_TOWER, IMAGE_TOWER, PATCH_TOWER)


def export_encoder(
    dual: DualEncoder,
    out: str | Path,
    *,
    name: str | None = None,
    check_texts: Sequence[str] = (),
    check_pixels: Pixels | None = None,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    facts: CardFacts | None = None,
    precision: str = FP32,
    yes: bool = False,
) -> EncoderDescription:
    """Write `out` and check its ONNX towers against torch.

    Args:
        dual: The encoder, on any device; LoRA adapters are merged into it first.
        out: The folder. An encoder folder that is there is replaced as a whole.
        name: For people; the folder's name unless given.
        check_texts: Real captions; the first 64, an empty and an overlong text are compared.
        check_pixels: Real images, resized and cropped, uint8[n, h, w, 3]; the first 16 are
            compared, or made-up ones where there are none.
        metrics: For metrics.json and the card; its keys are those of `card.model_card`.
        recipe: The run's settings, for recipe.yaml and the card.
        files: Copied into the folder under their own names (history.csv, plots).
        facts: For the card, what no run can measure; what they leave out is taken from `recipe`.
        precision: Of the ONNX towers, one of ONNX_PRECISIONS. In float32 they are compared with
            torch; what fewer bits change is in the description, and no reason to refuse.
        yes: Replace a folder of an earlier version, which has no list of its files, too.

    Raises UsageError where `out` is a file, or a folder with anything in it that clipsearch did
    not write or that was changed since, and ClipsearchError where the towers differ from torch by
    more than 1e-3, or the disk is full.
    """
    out = Path(out).absolute()
    check_out(out, yes=yes)
    merge_lora(dual)
    try:
        with built_aside(out, ENCODER_FOLDER, f"--out {out}", yes=yes) as partial:
            (partial / "onnx").mkdir()
            _write_checkpoint(dual, partial)
            # What is exported and compared is what was saved, not what is in memory.
            saved = load_dual_encoder(partial, max_tokens=dual.max_tokens)
            with quiet_transformers():
                # As it is once loaded, which adds keys: a copy then has the same fingerprint.
                saved.model.config.save_pretrained(partial)
            write_text_tower(saved, partial / TEXT_TOWER)
            write_image_tower(saved, partial / IMAGE_TOWER)
            if gives_patches(saved):
                write_patch_tower(saved, partial / PATCH_TOWER)
            differences = compare_towers(partial, saved, check_texts, check_pixels)
            if precision != FP32:
                for tower in TOWER_FILES:
                    if (partial / tower).is_file():
                        lower_precision(partial / tower, precision)
                differences = tower_differences(partial, saved, check_texts, check_pixels)
            description = EncoderDescription(
                family=dual.family,
                name=name or out.name,
                dimension=saved.dimension,
                max_tokens=saved.max_tokens,
                pad_to_max=saved.pad_to_max,
                pad_token_id=saved.pad_token_id,
                preprocessing=dual.preprocessing,
                onnx_max_difference=differences,
                fingerprint=fingerprint(partial),
                base_model=dual.base_model,
                precision=precision,
            )
            write_description(partial, description)
            _write_reports(partial, description, metrics, recipe, files, facts)
    except (OSError, SafetensorError) as error:
        raise ClipsearchError(
            f"{out}: the encoder could not be written ({error}); free some space or give another"
            f" folder; an encoder that was there before is untouched"
        ) from error
    return description


def check_out(out: Path, *, yes: bool = False) -> None:
    """Raise UsageError where an export to `out` would destroy something that is no encoder.

    Nor anything that we did not write: see `finetune.files.ownership`.
    """
    check_folder(out, ENCODER_FOLDER, DESCRIPTION_FILE, f"--out {out}", yes=yes)


def check_folder(out: Path, kind: FolderKind, sign: str, what: str, *, yes: bool) -> None:
    """Raise UsageError where a folder of this kind, known by the file `sign`, must not go to `out`.

    Reads all files of a folder that is there.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{what} is a file; give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / sign).is_file() and read_mark(out) is None:
        raise UsageError(
            f"{what} has files in it but is no {kind.name} (no {sign}); give a new or empty folder"
        )
    check_replaceable(out, kind, what, yes=yes)


def _write_checkpoint(dual: DualEncoder, folder: Path) -> None:
    """Write what transformers loads: weights in float32, tokenizer, preprocessing."""
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in dual.model.state_dict().items()
    }
    # A text's padding and cut are chosen for each call; tokenizer.json would keep the last ones.
    dual.tokenizer.backend_tokenizer.no_padding()
    dual.tokenizer.backend_tokenizer.no_truncation()
    with quiet_transformers():
        # One file, whatever the size: the fingerprint counts model.safetensors.
        dual.model.save_pretrained(folder, state_dict=state, max_shard_size="1TB")
        dual.tokenizer.save_pretrained(folder)
    # safetensors lets nobody but the owner read, but a server may run as somebody else.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    _write_json(
        folder / "preprocessor_config.json", preprocessor_config(dual.preprocessing, dual.family)
    )


def _write_reports(
    folder: Path,
    description: EncoderDescription,
    metrics: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    files: Sequence[Path],
    facts: CardFacts | None,
) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if metrics is not None:
        _write_json(folder / "metrics.json", metrics)
    if recipe is not None:
        write_recipe(folder, recipe)
    plots = sorted(file.name for file in files if file.suffix == ".png")
    names = [WEIGHTS_FILE, *(tower for tower in TOWER_FILES if (folder / tower).is_file())]
    card = model_card(
        description,
        metrics=metrics,
        recipe=recipe,
        plots=plots,
        facts=facts,
        sizes={name: (folder / name).stat().st_size for name in names},
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the settings of a run as `clipsearch finetune --recipe` reads them."""
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    (folder / RECIPE_FILE).write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
