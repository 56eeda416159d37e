"""What a checkpoint is made of, as transformers loads it: weights, tokenizer, preprocessing.

Every fault is one sentence that names the checkpoint and the mend. No checkpoint runs code: not
the files that `auto_map` in its settings names, not a kernel of the hub, not a pickle.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.image_processing_utils import ImageProcessingMixin
from transformers.utils import logging

from finetune.config.settings import TINY
from finetune.encoder_folder import is_missing_folder
from finetune.errors import ClipsearchError, EncoderError, UsageError
from finetune.files import bounded_json
from finetune.images.preprocessing import Preprocessing
from finetune.images.processor_config import preprocessing_from_config
from finetune.models.hub_client import prepare_hub


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a checkpoint of two towers is made of, whatever layout it was read from.

    Attributes:
        model: In float32, on the CPU, in evaluation mode.
        tokenizer: Of the text tower; it has a padding token.
        preprocessing: Of images.
        logit_bias: Of the sigmoid loss, a scalar, where the checkpoint has one and the model's
            class has no place for it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    preprocessing: Preprocessing
    logit_bias: torch.Tensor | None = None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and warnings out of our own output."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def local_folder(name: str) -> str | None:
    """Return the folder meant by `name`, or None where it is a hub id.

    Raises UsageError for neither, and for a hub id where the hub's token is none that can be sent;
    EncoderError for settings that no checkpoint has.
    """
    path = Path(name).expanduser()
    if path.is_file():
        raise UsageError(f"{name}: is a file; give a checkpoint's folder or a Hugging Face id")
    if path.is_dir():
        _check_settings_files(path)
        return str(path)
    if is_missing_folder(name):
        raise UsageError(f"{name or '(empty)'}: no such folder, and not a Hugging Face id")
    prepare_hub()
    return None


def _check_settings_files(folder: Path) -> None:
    """Raise EncoderError where a file is above the limits within which it would be parsed."""
    for path in sorted(folder.glob("*.json")):
        try:
            bounded_json.check_file(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise EncoderError(f"{path}: cannot be read ({reason}); download it again") from error


def load_config(name: str, source: str) -> PretrainedConfig:
    """Return config.json of a folder or id. Raises UsageError or EncoderError."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise not_loaded(name, source, error) from error
    for part in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        # transformers would load what is named so from the hub, and run it.
        if "/" in str(getattr(part, "_attn_implementation", None) or ""):
            raise _wants_code(name)
    return config


def load_weights(
    name: str,
    source: str,
    model_class: type[PreTrainedModel] = AutoModel,
    from_scratch: tuple[str, ...] = (),
) -> PreTrainedModel:
    """Return the model in float32.

    Tensors whose names begin with one of `from_scratch` may be missing and are then random.
    Raises EncoderError where others are.
    """
    try:
        loaded, report = model_class.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{name}: its weights are a pickle that holds more than tensors, or are broken; take"
            f" a checkpoint with model.safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise not_loaded(name, source, error) from error
    absent = sorted(key for key in report["missing_keys"] if not key.startswith(from_scratch))
    missing = absent + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise EncoderError(
            f"{name}: its weights do not fill the model"
            f" ({len(missing)} tensors are missing or of another shape, the first {missing[0]});"
            f" download or export the checkpoint again"
        )
    model: PreTrainedModel = loaded.eval()
    return model


def load_tokenizer(name: str, source: str) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of a folder or id.

    Raises EncoderError where it cannot fill texts.
    """
    try:
        tokenizer = _fast_tokenizer(source)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise not_loaded(name, source, error) from error
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"{name}: its tokenizer has no padding token; set pad_token in it")
    return tokenizer


def _fast_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """Return the checkpoint's own class where that is fast, else what its tokenizer.json says.

    SigLIP's own class needs sentencepiece and its model file, and has no tokenizer.json to export.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if tokenizer.is_fast:
            own: PreTrainedTokenizerFast = tokenizer
            return own
    except (ImportError, ValueError):
        pass  # the package, or its model file, is not there
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        source, trust_remote_code=False
    )
    return fast


def load_preprocessing(name: str, source: str) -> Preprocessing:
    """Return what preprocessor_config.json of a folder or id describes. Raises EncoderError."""
    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(
            f"{name}: has no preprocessor_config.json, so how its pictures are resized and"
            f" normalised is unknown; copy the file from the model that it was made from"
        ) from error
    return preprocessing_from_config(dict(config))


def check_vocabulary(
    name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Raise EncoderError where the tokenizer is empty or of another model."""
    ids = tokenizer.get_vocab().values()
    # transformers builds an empty tokenizer without a word where its files are not there.
    if len(ids) <= len(set(tokenizer.all_special_ids)):
        raise EncoderError(
            f"{name}: has no tokenizer; copy its tokenizer.json from the model that it was made"
            f" from"
        )
    if max(ids) >= config.text_config.vocab_size:
        raise EncoderError(
            f"{name}: its tokenizer has ids up to {max(ids)}, but its text tower knows only"
            f" {config.text_config.vocab_size}; it is the tokenizer of another model"
        )


def check_pooling(name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a CLIP whose text tower would not be read at the end of the text.

    With eos_token_id 2 transformers keeps its old rule, the position of the highest id; with any
    other it takes the first position of that id, and position 0 where there is none, which
    would give every text the same embedding.
    """
    if config.model_type != "clip":
        return
    ends = config.text_config.eos_token_id
    end = tokenizer.eos_token_id
    if end == ends or (ends == 2 and end == max(tokenizer.get_vocab().values())):
        return
    raise EncoderError(
        f"{name}: its tokenizer ends texts with the token {end}, but text_config.eos_token_id in"
        f" config.json is {ends}, so its text tower would be read at the wrong place;"
        f" set it to {end}"
    )


def not_loaded(name: str, source: str, error: Exception) -> ClipsearchError:
    """Return one sentence for what transformers and the hub client say in many."""
    if "trust_remote_code" in str(error):
        return _wants_code(name)
    if Path(source).is_dir():
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        return EncoderError(f"{name}: the checkpoint cannot be loaded ({first.strip()})")
    return UsageError(
        f"{name}: no such folder, and no such model could be downloaded from the Hugging Face hub"
        f" (no connection, a wrong id, or a private model without HF_TOKEN);"
        f" give a folder, another id, or {TINY!r} to train from scratch"
    )


def _wants_code(name: str) -> EncoderError:
    return EncoderError(
        f"{name}: its settings name program code of its own, which clipsearch does not run; take a"
        f" checkpoint of a kind that transformers itself knows"
    )
