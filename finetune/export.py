"""Write the encoder folder: a plain transformers checkpoint, ONNX towers, description and card.

The folder is built beside its place and renamed into it, so that a full disk or a kill leaves an
older encoder whole (`finetune.replacement`).
"""

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import yaml
from safetensors import SafetensorError
from torch import nn

from finetune.card import model_card
from finetune.encoder_folder import (
    DESCRIPTION_FILE,
    ENCODER_FOLDER,
    IMAGE_TOWER,
    TEXT_TOWER,
    EncoderDescription,
    Preprocessing,
    fingerprint,
    write_description,
)
from finetune.errors import ClipsearchError, UsageError
from finetune.images import normalize, preprocessor_config
from finetune.lora import merge_lora
from finetune.model import DualEncoder, load_dual_encoder, quiet_transformers
from finetune.ownership import Kind, check_replaceable, read_mark
from finetune.replacement import built_aside
from finetune.strict_json import dumps

# Opset 17 has LayerNormalization; every onnxruntime since 1.12 runs it.
OPSET = 17
MOST_DIFFERENCE = 1e-3
CHECKED_TEXTS = 64
CHECKED_PICTURES = 16
# An ONNX file is one protobuf message, which cannot be longer.
MOST_TOWER_BYTES = 2**31 - 2**20

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


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
    license: str | None = None,
    yes: bool = False,
) -> EncoderDescription:
    """Write `out` and check its ONNX towers against torch.

    Args:
        dual: The encoder, on any device; LoRA adapters are merged into it first.
        out: The folder. An encoder folder that is there is replaced as a whole.
        name: For people; the folder's name unless given.
        check_texts: Real captions; the first 64, an empty and an overlong text are compared.
        check_pixels: Real pictures, resized and cropped, uint8[n, h, w, 3]; the first 16 are
            compared, or made-up ones where there are none.
        metrics: For metrics.json and the card; its keys are those of `card.model_card`.
        recipe: The run's settings, for recipe.yaml and the card.
        files: Copied into the folder under their own names (history.csv, plots).
        license: Of the weights, as the hub writes it ("mit"); left out of the card unless given.
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
            _write_text_tower(saved, partial / TEXT_TOWER)
            _write_image_tower(saved, partial / IMAGE_TOWER)
            differences = compare_towers(partial, saved, check_texts, check_pixels)
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
            )
            write_description(partial, description)
            _write_reports(partial, description, metrics, recipe, files, license)
    except (OSError, SafetensorError) as error:
        raise ClipsearchError(
            f"{out}: the encoder could not be written ({error}); free some space or give another"
            f" folder; an encoder that was there before is untouched"
        ) from error
    return description


def check_out(out: Path, *, yes: bool = False) -> None:
    """Raise UsageError where an export to `out` would destroy something that is no encoder.

    Nor anything that we did not write: see `finetune.ownership`.
    """
    check_folder(out, ENCODER_FOLDER, DESCRIPTION_FILE, f"--out {out}", yes=yes)


def check_folder(out: Path, kind: Kind, sign: str, what: str, *, yes: bool) -> None:
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


def compare_towers(
    folder: Path, dual: DualEncoder, texts: Sequence[str], pixels: Pixels | None
) -> dict[str, float]:
    """Largest absolute difference of a value in ONNX's and torch's unit vectors, by tower.

    Texts are compared alone and in a padded batch, pictures alone and in a batch.
    Raises ClipsearchError where one is above 1e-3.
    """
    differences = {
        "text": _compare_texts(folder / TEXT_TOWER, dual, texts),
        "image": _compare_pictures(folder / IMAGE_TOWER, dual, pixels),
    }
    for tower, difference in differences.items():
        # Written so that NaN fails too.
        if not difference <= MOST_DIFFERENCE:
            raise ClipsearchError(
                f"the ONNX {tower} tower differs from torch by {difference:.2g}, more than"
                f" {MOST_DIFFERENCE:g}; this model cannot be exported with torch"
                f" {torch.__version__} and onnxruntime {onnxruntime.__version__}"
            )
    return differences


class _Tower(nn.Module):
    """One side of a dual encoder as a module: what an ONNX file holds."""

    def __init__(self, dual: DualEncoder, embed: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.dual = dual
        self.embed = embed

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.embed(*inputs)


def _write_checkpoint(dual: DualEncoder, folder: Path) -> None:
    """What transformers loads: weights in float32, tokenizer, preprocessing."""
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


def _write_text_tower(dual: DualEncoder, path: Path) -> None:
    _check_size("text", dual.model.text_model)
    axes = {0: "batch", 1: "tokens"}
    _trace(
        _Tower(dual, dual.embed_texts),
        path,
        example=dual.tokenize(["a", "two dogs on a beach"]),
        inputs={"input_ids": axes, "attention_mask": axes},
        output="text_embeds",
    )


def _write_image_tower(dual: DualEncoder, path: Path) -> None:
    _check_size("image", dual.model.vision_model)
    pixels = made_up_pictures(dual.preprocessing, 2)
    _trace(
        _Tower(dual, dual.embed_images),
        path,
        example=(torch.from_numpy(normalize(pixels, dual.preprocessing)),),
        inputs={"pixel_values": {0: "batch"}},
        output="image_embeds",
    )


def _check_size(name: str, tower: nn.Module) -> None:
    size = sum(value.numel() * 4 for value in tower.parameters())
    if size > MOST_TOWER_BYTES:
        raise ClipsearchError(
            f"the {name} tower has {size / 2**30:.1f} GB of weights in float32, but an ONNX file"
            f" holds at most 2; take a smaller model"
        )


def _trace(
    tower: nn.Module,
    path: Path,
    *,
    example: tuple[torch.Tensor, ...],
    inputs: Mapping[str, Mapping[int, str]],
    output: str,
) -> None:
    with warnings.catch_warnings(), torch.inference_mode(), quiet_transformers():
        # The tracer warns about each comparison of lengths; the comparison with torch at several
        # lengths and batch sizes is what shows that none of them matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={**inputs, output: {0: "batch"}},
            opset_version=OPSET,
            # The newer exporter needs onnxscript and fixes a dimension that is 1 in the example.
            dynamo=False,
        )


def made_up_pictures(preprocessing: Preprocessing, count: int) -> Pixels:
    """Noise over gradients, uint8[count, h, w, 3], where there are no real pictures to compare."""
    random = np.random.default_rng(0)
    height, width = preprocessing.height, preprocessing.width
    ramp = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, 3))
    tint = random.uniform(0, 1, size=(count, 1, 1, 3))
    noise = random.normal(0, 30, size=(count, height, width, 3))
    return cast(Pixels, np.clip(ramp * tint + noise, 0, 255).astype(np.uint8))


def _compare_texts(path: Path, dual: DualEncoder, texts: Sequence[str]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    edges = ["", "a", "two dogs on a beach", "word " * 2 * dual.max_tokens]
    sample = [*edges, *texts[:CHECKED_TEXTS]]
    # Padding must change nothing: alone, all together, and the shorter half together.
    shorter = sorted(sample, key=len)[: len(sample) // 2]
    batches = [*([text] for text in sample[:8]), sample, shorter]
    worst = 0.0
    for batch in batches:
        ids, mask = dual.tokenize(batch)
        with torch.inference_mode():
            expected = dual.embed_texts(ids, mask).numpy()
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        worst = _worse(worst, expected, found)
    return worst


def _compare_pictures(path: Path, dual: DualEncoder, pixels: Pixels | None) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if pixels is None or not len(pixels):
        pixels = made_up_pictures(dual.preprocessing, 5)
    values = normalize(pixels[:CHECKED_PICTURES], dual.preprocessing)
    worst = 0.0
    for batch in (values[:1], values):
        with torch.inference_mode():
            expected = dual.embed_images(torch.from_numpy(batch)).numpy()
        (found,) = session.run(None, {"pixel_values": batch})
        worst = _worse(worst, expected, found)
    return worst


def _worse(worst: float, expected: Floats, found: Floats) -> float:
    if expected.shape != found.shape:
        return float("inf")
    # np.maximum keeps NaN, max() would lose it.
    return float(np.maximum(worst, np.abs(expected - found).max()))


def _write_reports(
    folder: Path,
    description: EncoderDescription,
    metrics: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    files: Sequence[Path],
    license: str | None,
) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if metrics is not None:
        _write_json(folder / "metrics.json", metrics)
    if recipe is not None:
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    plots = sorted(file.name for file in files if file.suffix == ".png")
    card = model_card(description, metrics=metrics, recipe=recipe, plots=plots, license=license)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
