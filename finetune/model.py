"""A dual encoder: a Hugging Face checkpoint with two towers, behind one small face.

The model, its tokenizer and its preprocessing stay what transformers loaded; `DualEncoder` adds
only what differs between families: which inputs the text tower takes, and unit length.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
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

from finetune.encoder_folder import Preprocessing
from finetune.errors import ClipsearchError, EncoderError, UsageError
from finetune.images import preprocessing_from_config
from finetune.tiny import tiny_clip

TINY = "tiny"


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between kinds of checkpoints.

    Attributes:
        name: Written into encoder.json.
        pad_to_max: The text tower reads its last position, so every text is filled up to
            `max_tokens` and no attention mask is used (SigLIP, arXiv:2303.15343).
        dimension: Values in an embedding, from the model's configuration.
    """

    name: str
    pad_to_max: bool
    dimension: Callable[[PretrainedConfig], int]


# transformers' model_type to family. SigLIP 2 checkpoints of a fixed size have the type "siglip".
FAMILIES = {
    "clip": Family("clip", False, lambda config: int(config.projection_dim)),
    "siglip": Family("siglip", True, lambda config: int(config.text_config.projection_size)),
}


class DualEncoder(nn.Module):
    """Text and pictures to unit vectors of one space.

    Attributes:
        family: Name of the checkpoint's kind, see FAMILIES.
        model: As transformers loaded it; `model.save_pretrained` gives a plain checkpoint.
        tokenizer: Of the text tower; it has a `tokenizer.json`.
        preprocessing: Of pictures.
        max_tokens: Longer texts are cut.
        base_model: Id or folder that was loaded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        preprocessing: Preprocessing,
        *,
        max_tokens: int,
        base_model: str,
    ) -> None:
        super().__init__()
        self._family = FAMILIES[model.config.model_type]
        self.family = self._family.name
        self.model = model
        self.added_logit_bias: nn.Parameter | None
        self.register_parameter("added_logit_bias", None)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.max_tokens = max_tokens
        # Saved with the tokenizer, so that plain transformers cuts at the same place.
        tokenizer.model_max_length = max_tokens
        self.base_model = base_model

    @property
    def dimension(self) -> int:
        """Values in an embedding."""
        return self._family.dimension(self.model.config)

    @property
    def pad_to_max(self) -> bool:
        """Whether the text tower needs texts of its full length."""
        return self._family.pad_to_max

    @property
    def pad_token_id(self) -> int:
        """The token that fills shorter texts."""
        return int(self.tokenizer.pad_token_id)

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the factor on cosines; learned."""
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Added to scaled cosines by the sigmoid loss; None where the model has none."""
        bias: nn.Parameter | None = getattr(self.model, "logit_bias", self.added_logit_bias)
        return bias

    def ensure_logit_bias(self) -> nn.Parameter:
        """`logit_bias`, made where the family has none.

        Scale and bias then start where SigLIP's do (arXiv:2303.15343, section 3.2): at 10, as a
        factor, and at -10. A made bias is no part of the exported checkpoint, since embeddings do
        not depend on it.
        """
        if self.logit_bias is None:
            scale = self.logit_scale
            self.added_logit_bias = nn.Parameter(torch.full_like(scale, -10.0))
            with torch.no_grad():
                scale.fill_(math.log(10))
        assert self.logit_bias is not None
        return self.logit_bias

    def tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, int64[n, t]: cut at `max_tokens`, filled on the right.

        t is the longest text's length, or `max_tokens` where the family needs it.
        """
        batch = self.tokenizer(
            list(texts),
            padding="max_length" if self.pad_to_max else "longest",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return batch["input_ids"], batch["attention_mask"]

    def embed_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask, int64[n, t], to unit vectors, float32[n, d]."""
        if self.pad_to_max:
            input_ids = self._fill(input_ids, attention_mask)
            features = self.model.get_text_features(input_ids=input_ids)
        else:
            features = self.model.get_text_features(
                input_ids=input_ids, attention_mask=attention_mask
            )
        return F.normalize(features.pooler_output.float(), dim=-1)

    def embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised pixels, float32[n, 3, h, w], to unit vectors, float32[n, d]."""
        features = self.model.get_image_features(pixel_values=pixel_values)
        return F.normalize(features.pooler_output.float(), dim=-1)

    def _fill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Lengthen to `max_tokens` with the padding token, whatever stood where the mask is 0."""
        padding = torch.full_like(input_ids[:, :1], self.pad_token_id)
        filled = torch.where(attention_mask > 0, input_ids, padding)
        missing = padding.expand(-1, self.max_tokens)[:, input_ids.shape[1] :]
        return torch.cat([filled, missing], dim=1)


def load_dual_encoder(
    model: str | Path,
    captions: Sequence[str] = (),
    *,
    max_tokens: int | None = None,
    seed: int = 0,
) -> DualEncoder:
    """Load a checkpoint in float32 on the CPU.

    Args:
        model: A Hugging Face id, a folder (a transformers checkpoint or an encoder folder), or
            "tiny" for a small CLIP from scratch.
        captions: Of the training set; only "tiny" reads them, for its tokenizer.
        max_tokens: Cut texts earlier than the text tower would; never later.
        seed: Of the random weights of "tiny".

    Raises UsageError where there is no such checkpoint or its kind is not supported, and
    EncoderError where the checkpoint is incomplete.
    """
    name = str(model)
    if name == TINY:
        return _build_tiny(captions, max_tokens, seed)
    source = _local_folder(name) or name
    config = _load_config(name, source)
    with quiet_transformers():
        loaded = _load_model(name, source)
        tokenizer = _load_tokenizer(name, source)
    _check_vocabulary(name, config, tokenizer)
    _check_pooling(name, config, tokenizer)
    return DualEncoder(
        loaded,
        tokenizer,
        preprocessing_from_config(_load_preprocessor_config(name, source)),
        max_tokens=_token_limit(config, tokenizer, max_tokens),
        base_model=name,
    )


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


def _build_tiny(captions: Sequence[str], max_tokens: int | None, seed: int) -> DualEncoder:
    if not captions:
        raise UsageError('the model "tiny" builds its tokenizer from captions, but there are none')
    built = tiny_clip(captions, seed=seed)
    return DualEncoder(
        built.model,
        built.tokenizer,
        built.preprocessing,
        max_tokens=_token_limit(built.model.config, built.tokenizer, max_tokens),
        base_model=TINY,
    )


def _local_folder(name: str) -> str | None:
    """The folder meant by `name`, or None where it is a hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        raise UsageError(f"{name}: is a file; give a checkpoint's folder or a Hugging Face id")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{name}: is no transformers checkpoint (it has no config.json)")
        return str(path)
    # Ids are "name" or "owner/name"; anything else can only have been meant as a path.
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name:
        raise UsageError(f"{name or '(empty)'}: no such folder, and not a Hugging Face id")
    return None


def _load_config(name: str, source: str) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, source, error) from error
    if config.model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise UsageError(
            f"{name}: is a model of the type {config.model_type!r}, which is not supported;"
            f" supported are {supported}, and {TINY!r}"
        )
    return config


def _load_model(name: str, source: str) -> PreTrainedModel:
    try:
        loaded, report = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _not_loaded(name, source, error) from error
    missing = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if missing:
        raise EncoderError(
            f"{name}: its weights do not fill the model"
            f" ({len(missing)} tensors are missing or of another shape, the first {missing[0]});"
            f" download or export the checkpoint again"
        )
    model: PreTrainedModel = loaded.eval()
    return model


def _load_tokenizer(name: str, source: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = _fast_tokenizer(source)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, source, error) from error
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"{name}: its tokenizer has no padding token; set pad_token in it")
    return tokenizer


def _fast_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The checkpoint's own class where that is fast, else what its tokenizer.json says.

    SigLIP's own class needs sentencepiece and its model file, and has no tokenizer.json to export.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        if tokenizer.is_fast:
            own: PreTrainedTokenizerFast = tokenizer
            return own
    except (ImportError, ValueError):
        pass  # the package, or its model file, is not there
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(source)
    return fast


def _load_preprocessor_config(name: str, source: str) -> dict[str, Any]:
    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{name}: has no preprocessor_config.json, so how its pictures are resized and"
            f" normalised is unknown; copy the file from the model that it was made from"
        ) from error
    return dict(config)


def _token_limit(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, asked: int | None
) -> int:
    """The longest text in tokens: the tower's positions, the tokenizer's limit, what was asked."""
    positions = int(config.text_config.max_position_embeddings)
    limit = min(positions, int(tokenizer.model_max_length))
    if asked is None:
        return limit
    if asked < 3:
        raise UsageError(f"max tokens is {asked}, but a text needs at least 3 (begin, word, end)")
    if asked > limit:
        raise UsageError(f"max tokens is {asked}, but the text tower takes at most {limit}")
    return asked


def _check_vocabulary(
    name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
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


def _check_pooling(name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
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


def _not_loaded(name: str, source: str, error: Exception) -> ClipsearchError:
    """One sentence for what transformers and the hub client say in many."""
    if Path(source).is_dir():
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        return EncoderError(f"{name}: the checkpoint cannot be loaded ({first.strip()})")
    return UsageError(
        f"{name}: no such folder, and no such model could be downloaded from the Hugging Face hub"
        f" (no connection, a wrong id, or a private model without HF_TOKEN);"
        f" give a folder, another id, or {TINY!r} to train from scratch"
    )
