"""A dual encoder: a Hugging Face checkpoint with two towers, behind one small face.

The model, its tokenizer and its preprocessing stay what transformers loaded; `DualEncoder` adds
only what differs between families: which inputs the text tower takes, and unit length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.masking_utils import create_bidirectional_mask

from finetune.config.settings import TINY
from finetune.errors import UsageError
from finetune.images.preprocessing import Preprocessing
from finetune.models.openclip import is_open_clip, load_open_clip
from finetune.models.pretrained import (
    Pretrained,
    check_pooling,
    check_vocabulary,
    load_config,
    load_preprocessing,
    load_tokenizer,
    load_weights,
    local_folder,
    quiet_transformers,
)
from finetune.models.tiny import tiny_clip
from finetune.models.two_towers import DEFAULT_PROJECTION, load_vision_text
from finetune.towers import TWO_TOWERS


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between kinds of checkpoints.

    Attributes:
        name: Written into encoder.json.
        pad_to_max: The text tower reads its last position, so every text is filled up to
            `max_tokens` and no attention mask is used (SigLIP, arXiv:2303.15343).
        is_causal: A token sees those before it alone, and the embedding is read at the text's end
            token, so that no mask changes it: what is masked comes after.
        dimension: Values in an embedding, from the model's configuration.
    """

    name: str
    pad_to_max: bool
    is_causal: bool
    dimension: Callable[[PretrainedConfig], int]


# transformers' model_type to family. SigLIP 2 checkpoints of a fixed size have the type "siglip".
FAMILIES = {
    "clip": Family("clip", False, True, lambda config: int(config.projection_dim)),
    "siglip": Family("siglip", True, False, lambda config: int(config.text_config.projection_size)),
    "vision-text-dual-encoder": Family(
        "vision-text-dual-encoder", False, False, lambda config: int(config.projection_dim)
    ),
}

# Types of text towers that take transformers' own mask, made beforehand, in place of the tokens'.
TAKE_MADE_MASKS = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "mpnet", "albert"})


class DualEncoder(nn.Module):
    """Text and images to unit vectors of one space.

    Attributes:
        family: Name of the checkpoint's kind, see FAMILIES.
        model: As transformers loaded it; `model.save_pretrained` gives a plain checkpoint.
        tokenizer: Of the text tower; it has a `tokenizer.json`.
        preprocessing: Of images.
        max_tokens: Longer texts are cut.
        base_model: Id or folder that was loaded; of two towers both, joined by " + ".
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
        # Some classes (Gemma's, which SigLIP 2 uses) fill on the left unless told otherwise.
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
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
        """Return `logit_bias`, made where the family has none.

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
        """Return token ids and attention mask, int64[n, t], cut at `max_tokens`.

        Shorter texts are filled on the right.

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

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has before any cut, its begin and end included."""
        if not texts:
            return []
        # Not verbose: a text longer than the tower is what is asked about.
        found = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [len(ids) for ids in found]

    def mask_on_host(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the mask that `embed_texts` needs of these texts.

        With it the embeddings are the same to the bit.

        Transformers looks into a mask on its device, for which the host waits in every step. What
        can be found out beforehand is found out here: that none is needed, or what becomes of it.

        Args:
            input_ids, attention_mask: int64[n, t], both on the CPU.

        Returns:
            None where none is needed; else bool or float32[n, 1, t, t] as transformers makes it, or
            the mask itself for a text tower that takes no other.
        """
        if self._family.is_causal:
            return None
        if self.pad_to_max:
            return None if input_ids.shape[1] == self.max_tokens else attention_mask
        if bool(attention_mask.all()):
            return None
        config = self.model.text_model.config
        if config.model_type not in TAKE_MADE_MASKS or getattr(config, "is_decoder", False):
            return attention_mask
        made: torch.Tensor | None = create_bidirectional_mask(
            config, torch.empty(*input_ids.shape, 1), attention_mask
        )
        return made

    def embed_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed token ids, int64[n, t], as unit vectors, float32[n, d].

        `attention_mask` is int64[n, t], or what `mask_on_host` made of it.
        """
        if self.pad_to_max:
            if attention_mask is not None:
                input_ids = self._fill(input_ids, attention_mask)
            features = self.model.get_text_features(input_ids=input_ids)
        else:
            features = self.model.get_text_features(
                input_ids=input_ids, attention_mask=attention_mask
            )
        return F.normalize(features.pooler_output.float(), dim=-1)

    def embed_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed normalised pixels, float32[n, 3, h, w], as unit vectors, float32[n, d]."""
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
        model: A Hugging Face id, a folder (a transformers checkpoint, an encoder folder, or an
            OpenCLIP checkpoint), or "tiny" for a small CLIP from scratch.
        captions: Of the training set; only "tiny" reads them, for its tokenizer.
        max_tokens: Cut texts earlier than the text tower would; never later.
        seed: Of the random weights of "tiny".

    Raises UsageError where there is no such checkpoint or its kind is not supported, and
    EncoderError where the checkpoint is incomplete.
    """
    name = str(model)
    if name == TINY:
        return _build_tiny(captions, max_tokens, seed)
    source = local_folder(name) or name
    with quiet_transformers():
        if is_open_clip(source):
            return _assemble(load_open_clip(name, source), name, max_tokens)
        return _assemble(_load_transformers(name, source), name, max_tokens)


def load_two_towers(
    vision: str | Path,
    text: str | Path,
    *,
    projection: int = DEFAULT_PROJECTION,
    max_tokens: int | None = None,
    seed: int = 0,
) -> DualEncoder:
    """Return a dual encoder of two single-modality checkpoints, with projections from scratch.

    Args:
        vision: Id or folder of the image tower: a CLIP or SigLIP (its image half), a ViT, ...
        text: Id or folder of the text tower, such as roberta-base.
        projection: Values in an embedding.
        max_tokens: Cut texts earlier than the text tower would; never later.
        seed: Of the projections, and of the text tower's pooler where the checkpoint has none.

    Raises UsageError where a checkpoint is not there or is of no use as that tower, and
    EncoderError where it is incomplete.
    """
    with quiet_transformers():
        built = load_vision_text(str(vision), str(text), projection=projection, seed=seed)
    return _assemble(built, f"{vision}{TWO_TOWERS}{text}", max_tokens)


def _load_transformers(name: str, source: str) -> Pretrained:
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise UsageError(f"{name}: is no transformers checkpoint (it has no config.json)")
    config = load_config(name, source)
    if config.model_type == "siglip2":
        raise UsageError(
            f"{name}: is a SigLIP 2 of variable resolution (NaFlex), which is not supported; take"
            f" one of fixed resolution, such as google/siglip2-base-patch16-224"
        )
    if config.model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise UsageError(
            f"{name}: is a model of the type {config.model_type!r}, which is not supported;"
            f" supported are {supported}, and {TINY!r}"
        )
    model = load_weights(name, source)
    tokenizer = load_tokenizer(name, source)
    check_vocabulary(name, config, tokenizer)
    check_pooling(name, config, tokenizer)
    return Pretrained(model, tokenizer, load_preprocessing(name, source))


def _build_tiny(captions: Sequence[str], max_tokens: int | None, seed: int) -> DualEncoder:
    if not captions:
        raise UsageError('the model "tiny" builds its tokenizer from captions, but there are none')
    built = tiny_clip(captions, seed=seed)
    pretrained = Pretrained(built.model, built.tokenizer, built.preprocessing)
    return _assemble(pretrained, TINY, max_tokens)


def _assemble(pretrained: Pretrained, name: str, max_tokens: int | None) -> DualEncoder:
    model, tokenizer = pretrained.model, pretrained.tokenizer
    dual = DualEncoder(
        model,
        tokenizer,
        pretrained.preprocessing,
        max_tokens=_token_limit(model, tokenizer, max_tokens),
        base_model=name,
    )
    if pretrained.logit_bias is not None:
        bias = pretrained.logit_bias.float().reshape(dual.logit_scale.shape)
        dual.added_logit_bias = nn.Parameter(bias.clone())
    return dual


def _token_limit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: int | None
) -> int:
    """Return the longest text in tokens.

    It is what was asked, or else what the tower's positions and the tokenizer allow.
    """
    limit = min(_positions(model), int(tokenizer.model_max_length))
    if asked is None:
        return limit
    if asked < 3:
        raise UsageError(f"max tokens is {asked}, but a text needs at least 3 (begin, word, end)")
    if asked > limit:
        raise UsageError(f"max tokens is {asked}, but the text tower takes at most {limit}")
    return asked


def _positions(model: PreTrainedModel) -> int:
    """Return how many positions the text tower has for tokens.

    RoBERTa and its kin count from after the padding's id, so 514 positions hold 512 tokens.
    """
    positions = int(model.config.text_config.max_position_embeddings)
    for name, module in model.text_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return positions if padding is None else positions - padding - 1
    return positions
