"""The encoder folder: what is in it, its description and its fingerprint.

Written by `finetune.export.encoder`, read by `clipsearch.encoder.encoder`, the Vespa package and
people.
Imports without torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from finetune.errors import EncoderError
from finetune.files import bounded_json
from finetune.files.ownership import FolderKind
from finetune.images.preprocessing import (
    RESAMPLE_NAMES,
    Preprocessing,
    Resize,
    Transparency,
)
from finetune.memory import raise_too_little
from finetune.near_names import did_you_mean
from finetune.text.strict_json import dumps
from finetune.towers import FP32

FORMAT_VERSION = 1
DESCRIPTION_FILE = "encoder.json"
TEXT_TOWER = "onnx/text.onnx"
IMAGE_TOWER = "onnx/image.onnx"
# The image tower once more, read at each patch. No image's or text's embedding depends on it: it is
# no part of the fingerprint, and folders of earlier versions have none.
PATCH_TOWER = "onnx/patches.onnx"
TOKENIZER_FILE = "tokenizer.json"
# Of torch; a folder that was fetched from the hub with its ONNX towers has none.
WEIGHTS_FILE = "model.safetensors"
# The output of a text tower that a Vespa's embedder asks for; see vespa_app/services.xml.
TEXT_OUTPUT, IMAGE_OUTPUT = "text_embeds", "image_embeds"
# The sheet of queries that training changed most, which holds images of the user's.
CHANGES_PAGE, CHANGES_IMAGE = "changes.html", "changes.png"

# Files of which a changed byte changes embeddings. The card, plots and histories do not count.
EMBEDDING_FILES = (
    "config.json",
    WEIGHTS_FILE,
    "preprocessor_config.json",
    "tokenizer.json",
    TEXT_TOWER,
    IMAGE_TOWER,
)

HISTORY_FILE = "history.csv"
# What transformers saves of a tokenizer depends on its class.
TOKENIZER_FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model", "source.spm", "target.spm", "chat_template.jinja",
)  # fmt: skip
ENCODER_FOLDER = FolderKind(
    "encoder folder",
    (
        DESCRIPTION_FILE, *EMBEDDING_FILES, PATCH_TOWER, *TOKENIZER_FILES, "generation_config.json",
        "README.md", "recipe.yaml", "metrics.json", HISTORY_FILE, "rejected.csv",
        "loss.png", "learning-rate.png", "retrieval.png", "ranks.png", "similarity.png",
        CHANGES_PAGE, CHANGES_IMAGE,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncoderDescription:
    """The content of encoder.json.

    Attributes:
        format_version: Of the folder.
        family: "clip", "siglip", "vision-text-dual-encoder".
        name: For people: the folder's or the model's name.
        dimension: Values in an embedding.
        max_tokens: Longer texts are cut.
        pad_to_max: The text tower needs its full length (SigLIP).
        pad_token_id: Fills shorter texts.
        preprocessing: Of images.
        onnx_max_difference: Largest absolute difference of ONNX and torch embeddings on the
            inputs of the export's check, by tower ("text", "image", and "patch" where it has one).
        fingerprint: sha256 over the hashes of every file that affects embeddings.
        base_model: Id or folder that training started from.
        precision: Of the ONNX towers: "fp32", "fp16" or "int8". The checkpoint is in float32.
        tower_outputs: By tower, the name of the ONNX output that is the embedding; where it names
            none, the tower has one output.
        unit_length: Whether the ONNX towers give vectors of unit length. Where they do not, as
            those of the hub, whoever runs them divides.
    """

    family: str
    name: str
    dimension: int
    max_tokens: int
    pad_to_max: bool
    pad_token_id: int
    preprocessing: Preprocessing
    onnx_max_difference: Mapping[str, float]
    fingerprint: str
    base_model: str = ""
    precision: str = FP32
    tower_outputs: Mapping[str, str] = field(default_factory=dict)
    unit_length: bool = True
    format_version: int = FORMAT_VERSION


def is_missing_folder(name: str) -> bool:
    """Return whether a model's name can only mean a folder, and there is none.

    Ids of the hub are "name" or "owner/name".
    """
    is_no_id = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name
    return is_no_id and not Path(name).expanduser().exists()


def fingerprint(folder: Path) -> str:
    """Return the sha256, in hex, over name and sha256 of each of EMBEDDING_FILES that is there.

    Raises EncoderError where a tower is missing.
    """
    total = hashlib.sha256()
    for name in EMBEDDING_FILES:
        path = folder / name
        if not path.is_file():
            if name in (TEXT_TOWER, IMAGE_TOWER):
                raise EncoderError(f"{folder}: {name} is missing; export the encoder again")
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def write_description(folder: Path, description: EncoderDescription) -> None:
    """Write encoder.json."""
    values = asdict(description)
    # Earlier versions refuse what they do not know, and do what these say.
    if description.preprocessing.transparency == "white":
        del values["preprocessing"]["transparency"]
    if description.precision == FP32:
        del values["precision"]
    if not description.tower_outputs:
        del values["tower_outputs"]
    if description.unit_length:
        del values["unit_length"]
    text = dumps(values, indent=2)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> EncoderDescription:
    """Read encoder.json, without checking the fingerprint against the files.

    Raises EncoderError, in one sentence, where the folder is none of ours, is of another format
    version, its description cannot be read, or images are to be resized in a way unknown here.
    """
    path = folder / DESCRIPTION_FILE
    if folder.is_file():
        raise EncoderError(f"{folder}: is a file; an encoder is a folder, or an id of the hub")
    if not folder.is_dir():
        meant = did_you_mean(folder, folders=True)
        raise EncoderError(
            f"{folder}: no such encoder folder{meant}; fetch one with: clipsearch"
            f" encoder get, or make one with: clipsearch finetune"
        )
    if not path.is_file():
        raise EncoderError(
            f"{folder}: is no encoder folder (no {DESCRIPTION_FILE});"
            f" turn a transformers checkpoint into one with: clipsearch export"
        )
    try:
        data = bounded_json.read(path)
    except (OSError, ValueError) as error:
        raise_too_little(error, str(path))
        raise EncoderError(f"{path}: cannot be read ({error}); export the encoder again") from error
    return _parse_description(path, data)


def _parse_description(path: Path, data: Any) -> EncoderDescription:
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise EncoderError(
            f"{path}: format version {version}, but this clipsearch reads {FORMAT_VERSION};"
            f" export the encoder again, or install the clipsearch that wrote it"
        )
    try:
        values = dict(data)
        pre = dict(values["preprocessing"])
        pre["mean"], pre["std"] = tuple(pre["mean"]), tuple(pre["std"])
        values["preprocessing"] = Preprocessing(**pre)
        description = EncoderDescription(**values)
    except (KeyError, TypeError) as error:
        raise EncoderError(f"{path}: not complete ({error}); export the encoder again") from error
    _check_preprocessing(path, description.preprocessing)
    return description


def _check_preprocessing(path: Path, preprocessing: Preprocessing) -> None:
    """Raise EncoderError for a way to resize, or a filter, that this version does not know.

    Images prepared in another way than the encoder's would be searched in silence.
    """
    for name, known in (
        ("resize", get_args(Resize)),
        ("resample", RESAMPLE_NAMES),
        ("transparency", get_args(Transparency)),
    ):
        value = getattr(preprocessing, name)
        if value not in known:
            raise EncoderError(
                f"{path}: preprocessing.{name} is {value!r}, but this clipsearch knows"
                f" {', '.join(known)}; export the encoder again, or install the clipsearch that"
                f" wrote it"
            )


def check_fingerprint(folder: Path, description: EncoderDescription) -> None:
    """Raise EncoderError where a file that affects embeddings is not the one that was exported."""
    found = fingerprint(folder)
    if found != description.fingerprint:
        raise EncoderError(
            f"{folder}: its files have the fingerprint {found[:12]}, but encoder.json says"
            f" {description.fingerprint[:12]}; a file was changed, so export the encoder again"
        )
