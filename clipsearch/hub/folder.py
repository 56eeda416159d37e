"""An encoder folder from a model of the hub whose towers are ONNX already, without torch.

The layout is that of transformers.js: `onnx/text_model.onnx` and `onnx/vision_model.onnx`, with
the checkpoint's own settings and tokenizer beside. Where such towers do not give vectors of unit
length, encoder.json says so, and whoever runs them divides.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from clipsearch.encoder.encoder import Encoder
from clipsearch.hub.download import HubModel
from finetune.encoder_folder import (
    ENCODER_FOLDER,
    IMAGE_OUTPUT,
    IMAGE_TOWER,
    TEXT_OUTPUT,
    TEXT_TOWER,
    EncoderDescription,
    fingerprint,
    write_description,
)
from finetune.errors import EncoderError
from finetune.files import bounded_json
from finetune.files.replacement import built_aside
from finetune.images.processor_config import preprocessing_from_config
from finetune.towers import FP16, FP32, INT8

FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
EXTRA_FILES = ("special_tokens_map.json",)
# The longest text where a configuration is silent, as transformers' own defaults say.
_LONGEST = {"clip": 77, "siglip": 64}
_FAMILIES = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip"}
# SigLIP's towers end where they pool, and have no projection.
_POOLED = "pooler_output"
_SAME = 1e-3
PROBES = ("a photo of a dog", "a", "two dogs and three cats on a wide beach under a grey sky")


@dataclass(frozen=True, slots=True)
class TowerFiles:
    """Where a model keeps its towers in one precision."""

    text: str
    image: str

    @classmethod
    def of(cls, precision: str) -> "TowerFiles":
        """Name the files as transformers.js does; `precision` is one of ONNX_PRECISIONS."""
        end = {FP32: "", FP16: "_fp16", INT8: "_quantized"}[precision]
        return cls(f"onnx/text_model{end}.onnx", f"onnx/vision_model{end}.onnx")


def assemble(
    model: HubModel, fetched: Mapping[str, Path], out: Path, precision: str, *, yes: bool
) -> EncoderDescription:
    """Make the encoder folder `out` of fetched files, and run both towers once.

    Args:
        model: Which is it.
        fetched: Path in the model to the file here; copied.
        out: Replaced as a whole where it is an encoder folder already.
        precision: Of the towers.
        yes: See `built_aside`.

    Raises EncoderError for a model of another family, or towers that are of no use here, and
    OSError.
    """
    towers = TowerFiles.of(precision)
    with built_aside(out, ENCODER_FOLDER, f"--out {out}", yes=yes) as partial:
        (partial / "onnx").mkdir()
        places = {towers.text: TEXT_TOWER, towers.image: IMAGE_TOWER}
        for path, file in fetched.items():
            shutil.copyfile(file, partial / places.get(path, path))
        description = _described(model, partial, precision)
        description = _tried(partial, description)
        write_description(partial, description)
        (partial / "README.md").write_text(_card(model, description), encoding="utf-8")
    return description


def _described(model: HubModel, folder: Path, precision: str) -> EncoderDescription:
    """Read what the settings say; the dimension is found out by `_tried`."""
    config = _settings(model, folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in _FAMILIES:
        raise EncoderError(
            f"{model.id}: is a model of the type {kind!r}; clip, siglip and siglip2 are supported"
            f" (see: clipsearch encoder list)"
        )
    family = _FAMILIES[kind]
    text = config.get("text_config")
    longest = text.get("max_position_embeddings") if isinstance(text, Mapping) else None
    return EncoderDescription(
        family=family,
        name=model.id,
        dimension=0,
        max_tokens=int(longest or _LONGEST[family]),
        pad_to_max=family == "siglip",
        pad_token_id=_pad_token(model, folder),
        preprocessing=preprocessing_from_config(
            _settings(model, folder / "preprocessor_config.json")
        ),
        onnx_max_difference={},
        fingerprint=fingerprint(folder),
        base_model=model.id,
        precision=precision,
        tower_outputs={
            "text": _output(folder / TEXT_TOWER, TEXT_OUTPUT),
            "image": _output(folder / IMAGE_TOWER, IMAGE_OUTPUT),
        },
        unit_length=False,
    )


def _tried(folder: Path, description: EncoderDescription) -> EncoderDescription:
    """Return the description with the dimension, once both towers have given such vectors."""
    preprocessing = description.preprocessing
    pixels = np.full((2, preprocessing.height, preprocessing.width, 3), 128, np.uint8)
    size = _size(folder, description)
    description = replace(description, dimension=size)
    write_description(folder, description)
    encoder = Encoder.load(folder, verify=False)
    encoder.encode_pixels(pixels)
    together = encoder.encode_texts(PROBES)
    alone = np.concatenate([encoder.encode_texts([text]) for text in PROBES])
    if float(np.abs(together - alone).max()) > _SAME and description.precision == FP32:
        raise EncoderError(
            f"{description.name}: its text tower gives a text another vector beside longer ones,"
            f" so that padding would change what is found; take another of: clipsearch encoder list"
        )
    return description


def _size(folder: Path, description: EncoderDescription) -> int:
    """Return the values in a vector of the image tower."""
    preprocessing = description.preprocessing
    session = _session(folder / IMAGE_TOWER)
    pixels = np.zeros((1, 3, preprocessing.height, preprocessing.width), np.float32)
    name = description.tower_outputs["image"]
    try:
        (vectors,) = session.run([name], {"pixel_values": pixels})
    except Exception as error:  # the runtime's exceptions share no class of their own
        reason = " ".join(str(error).split())
        raise EncoderError(f"{description.name}: its image tower fails ({reason})") from error
    if vectors.ndim != 2:
        raise EncoderError(
            f"{description.name}: its image tower gives {list(vectors.shape)} for an image, not a"
            f" vector; take another of: clipsearch encoder list"
        )
    return int(vectors.shape[1])


def _output(tower: Path, usual: str) -> str:
    """Return the name of the output that is the embedding. Raises EncoderError for none."""
    names = [each.name for each in _session(tower).get_outputs()]
    for name in (usual, _POOLED):
        if name in names:
            return name
    if len(names) == 1:
        return str(names[0])
    raise EncoderError(
        f"{tower.name}: has the outputs {', '.join(names)}, but neither {usual} nor {_POOLED};"
        f" take another of: clipsearch encoder list"
    )


def _session(tower: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Only names and one small run are wanted: optimising a graph of hundreds of megabytes is not.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(tower), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no class of their own
        reason = " ".join(str(error).split())
        raise EncoderError(f"{tower.name}: ONNX Runtime cannot load it ({reason})") from error


def _pad_token(model: HubModel, folder: Path) -> int:
    """Return the id of the token that fills shorter texts."""
    from tokenizers import Tokenizer  # only where a folder is made

    token = _settings(model, folder / "tokenizer_config.json").get("pad_token")
    word = token.get("content") if isinstance(token, Mapping) else token
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise EncoderError(f"{model.id}: its tokenizer.json cannot be read ({error})") from error
    number = tokenizer.token_to_id(word) if isinstance(word, str) else None
    if number is None:
        raise EncoderError(f"{model.id}: its tokenizer has no padding token (pad_token)")
    return int(number)


def _settings(model: HubModel, path: Path) -> dict[str, Any]:
    try:
        settings = bounded_json.read(path)
    except (OSError, ValueError) as error:
        raise EncoderError(f"{model.id}: {path.name} cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise EncoderError(f"{model.id}: {path.name} holds no settings")
    return settings


def _card(model: HubModel, description: EncoderDescription) -> str:
    license = f"license: {model.license}\n" if model.license else ""
    return (
        f"---\n{license}base_model: {model.id}\n---\n\n# {model.id}\n\n"
        f"Fetched from the Hugging Face hub at commit {model.commit}, not trained here. The towers"
        f" in `onnx/` are its own ({description.precision}); weights of torch are not in this"
        f" folder. Fine-tune it with `clipsearch finetune MANIFEST --model ID`, where ID is the"
        f" checkpoint that they were exported from.\n"
    )
