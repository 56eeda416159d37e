"""OpenCLIP checkpoints, read without open_clip: a folder or hub repository with
`open_clip_config.json` and weights of OpenCLIP's layout.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from finetune.errors import EncoderError, UsageError
from finetune.files import bounded_json
from finetune.images.preprocessing import Preprocessing
from finetune.memory import raise_too_little
from finetune.models.openclip_weights import clip_config, to_transformers
from finetune.models.pretrained import Pretrained, check_pooling, check_vocabulary, load_tokenizer

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# In the order in which open_clip looks for them.
WEIGHTS_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
FETCHED_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"
)  # fmt: skip

# What `preprocess_cfg` means where it is silent (open_clip's PreprocessCfg).
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# sha256 of the words of CLIP's vocabulary in order, one a line, without begin and end of the text,
# which OpenAI, OpenCLIP and transformers write differently.
STANDARD_VOCABULARY = "ee7a4423aea96d705babd8004aa41e3696ffd366e5d8f3227d4fa057768d60e0"


def is_open_clip(source: str) -> bool:
    """Return whether a folder or hub id can only be read as OpenCLIP's.

    Many hub repositories hold both layouts; transformers' own is then taken. The config.json of
    others is timm's, which has no model_type.
    """
    config = _fetch(source, "config.json")
    if config is not None:
        try:
            if "model_type" in bounded_json.read(config):
                return False
        except (OSError, ValueError, TypeError):
            pass  # not readable as any
    return _fetch(source, CONFIG_FILE) is not None


def load_open_clip(name: str, source: str) -> Pretrained:
    """Return the checkpoint as a CLIPModel with the same embeddings.

    The tokenizer's clean-up differs in one place: open_clip mends wrongly decoded text (ftfy) and
    resolves HTML entities first, transformers does not.

    Args:
        name: As the user gave it, for errors.
        source: The folder or hub id.

    Raises UsageError for a kind of tower that transformers' CLIP lacks, and EncoderError where a
    file is missing or broken.
    """
    settings = _read_config(name, source)
    model_config: Mapping[str, Any] = settings["model_cfg"]
    tokenizer = _load_tokenizer(name, source)
    config = clip_config(name, model_config, int(tokenizer.eos_token_id))
    check_vocabulary(name, config, tokenizer)
    check_pooling(name, config, tokenizer)
    state = _read_weights(name, source)
    model = _fill(name, config, to_transformers(name, state, config))
    return Pretrained(
        model=model,
        tokenizer=tokenizer,
        preprocessing=_preprocessing(
            name, settings.get("preprocess_cfg") or {}, config.vision_config.image_size
        ),
        logit_bias=state.get("logit_bias"),
    )


def has_standard_vocabulary(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether it is the vocabulary that open_clip itself carries."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[:-2]
    text = "\n".join(word for word, _ in words)
    return hashlib.sha256(text.encode()).hexdigest() == STANDARD_VOCABULARY


def _fetch(source: str, file: str) -> Path | None:
    """Return a file of a folder, or of a hub repository (downloaded once).

    None where there is none.
    """
    if Path(source).is_dir():
        path = Path(source) / file
        return path if path.is_file() else None
    found = cached_file(
        source,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _read_config(name: str, source: str) -> dict[str, Any]:
    path = _fetch(source, CONFIG_FILE)
    assert path is not None, "is_open_clip says that it is there"
    try:
        settings: dict[str, Any] = bounded_json.read(path)
        model = settings["model_cfg"]
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(model):
            raise KeyError("embed_dim, vision_cfg or text_cfg")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{name}: its {CONFIG_FILE} cannot be read or is not complete ({error});"
            f" download it again"
        ) from error
    return settings


def _load_tokenizer(name: str, source: str) -> PreTrainedTokenizerFast:
    files = {file: _fetch(source, file) for file in FETCHED_TOKENIZER_FILES}
    present = {file for file, path in files.items() if path is not None}
    if not ({"tokenizer.json"} <= present or {"vocab.json", "merges.txt"} <= present):
        raise EncoderError(
            f"{name}: has no tokenizer.json (nor vocab.json and merges.txt), which open_clip does"
            f" not need since it carries CLIP's vocabulary; copy tokenizer.json of"
            f" openai/clip-vit-base-patch32 beside {CONFIG_FILE}"
        )
    folder = next(path.parent for path in files.values() if path is not None)
    if "tokenizer_config.json" in present:
        return load_tokenizer(name, str(folder))
    try:
        tokenizer: PreTrainedTokenizerFast = CLIPTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except Exception as error:
        # The tokenizers library raises plain Exception.
        raise_too_little(error, name)
        raise EncoderError(
            f"{name}: its tokenizer cannot be read ({error}); copy it again"
        ) from error
    return tokenizer


def _read_weights(name: str, source: str) -> dict[str, torch.Tensor]:
    path = next((p for file in WEIGHTS_FILES if (p := _fetch(source, file)) is not None), None)
    if path is None:
        raise EncoderError(f"{name}: has {CONFIG_FILE} but none of {', '.join(WEIGHTS_FILES)}")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)  # a checkpoint of open_clip's own training
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise_too_little(error, f"{name}: {path.name}")
        raise EncoderError(f"{name}: {path.name} cannot be read; download it again") from error
    except Exception as error:  # pickle's errors are many
        raise_too_little(error, f"{name}: {path.name}")
        raise EncoderError(
            f"{name}: {path.name} holds more than tensors, or is broken ({type(error).__name__})"
        ) from error
    return {key.removeprefix("module."): value for key, value in state.items()}


def _fill(name: str, config: Any, tensors: dict[str, torch.Tensor]) -> CLIPModel:
    try:
        model, report = CLIPModel.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except RuntimeError as error:
        raise _of_another_shape(name, str(error).splitlines()[0]) from error
    wrong = sorted(str(key) for key in {*report["mismatched_keys"], *report["missing_keys"]})
    if wrong:
        raise _of_another_shape(name, wrong[0])
    return model.eval()


def _of_another_shape(name: str, what: str) -> EncoderError:
    return EncoderError(
        f"{name}: its weights are of another shape than {CONFIG_FILE} describes ({what})"
    )


def _preprocessing(name: str, settings: Mapping[str, Any], side: int) -> Preprocessing:
    """Return `preprocess_cfg`; open_clip takes the size from the image tower, whatever it says."""
    mode = settings.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise UsageError(
            f"{name}: preprocess_cfg.resize_mode={mode} is not supported; shortest and squash are"
        )
    interpolation = settings.get("interpolation") or "bicubic"
    mean, std = settings.get("mean") or OPENAI_MEAN, settings.get("std") or OPENAI_STD
    return Preprocessing(
        height=side,
        width=side,
        resize="shortest-edge" if mode == "shortest" else "exact",
        resize_to=side,
        # "random" means random in training, and bicubic outside it.
        resample="bilinear" if interpolation == "bilinear" else "bicubic",
        mean=_channels(mean),
        std=_channels(std),
    )


def _channels(value: Any) -> tuple[float, float, float]:
    first, second, third = value if isinstance(value, (list, tuple)) else (value,) * 3
    return float(first), float(second), float(third)
