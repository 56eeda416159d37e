"""A dual encoder of two single-modality checkpoints (transformers' VisionTextDualEncoderModel).

Only the towers are pretrained: the projections into the common space, the logit scale and, where
the text checkpoint has none (roberta-base), the pooler start from scratch.
"""

import torch
from transformers import (
    AutoModel,
    CLIPVisionModel,
    PreTrainedModel,
    SiglipVisionModel,
    VisionTextDualEncoderModel,
)

from finetune.config.settings import TINY
from finetune.errors import UsageError
from finetune.images.preprocessing import Preprocessing
from finetune.models.pretrained import (
    Pretrained,
    check_vocabulary,
    load_config,
    load_preprocessing,
    load_tokenizer,
    load_weights,
    local_folder,
)
from finetune.models.tiny import tiny_image_tower

DEFAULT_PROJECTION = 512

# The image half of a checkpoint that has two.
IMAGE_HALVES: dict[str, type[PreTrainedModel]] = {
    "clip": CLIPVisionModel,
    "siglip": SiglipVisionModel,
}


def load_vision_text(vision: str, text: str, *, projection: int, seed: int) -> Pretrained:
    """Load the two towers and join them; what is random follows from `seed` alone.

    The image tower "tiny" is a small one from scratch.

    Raises UsageError where a checkpoint is not there or cannot be that tower, and EncoderError
    where it is incomplete.
    """
    if projection < 1:
        raise UsageError(f"the projection has {projection} values; give at least 1")
    text_source = local_folder(text) or text
    tokenizer = load_tokenizer(text, text_source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_tower, preprocessing = _image_tower(vision)
        text_tower = _text_tower(text, text_source)
        model = VisionTextDualEncoderModel.from_vision_text_pretrained(
            vision_model=image_tower, text_model=text_tower, projection_dim=projection
        )
    # Where the towers lay is of no use to whoever loads the result.
    model.config.vision_config._name_or_path = model.config.text_config._name_or_path = ""
    check_vocabulary(text, model.config, tokenizer)
    return Pretrained(model.eval(), tokenizer, preprocessing)


def _image_tower(name: str) -> tuple[PreTrainedModel, Preprocessing]:
    if name == TINY:
        return tiny_image_tower()
    source = local_folder(name) or name
    preprocessing = load_preprocessing(name, source)
    config = load_config(name, source)
    tower = load_weights(
        name, source, IMAGE_HALVES.get(config.model_type, AutoModel), from_scratch=("pooler.",)
    )
    side = getattr(tower.config, "image_size", None)
    if not isinstance(side, int):
        raise UsageError(f"{name}: is no image tower; give a CLIP, SigLIP or ViT checkpoint")
    with torch.inference_mode():
        features = tower(pixel_values=torch.zeros(1, 3, side, side))
    if getattr(features, "pooler_output", None) is None:
        raise UsageError(
            f"{name}: its image tower gives no single vector for a picture (no pooler);"
            f" give a CLIP, SigLIP or ViT checkpoint"
        )
    return tower, preprocessing


def _text_tower(name: str, source: str) -> PreTrainedModel:
    config = load_config(name, source)
    if not hasattr(config, "max_position_embeddings") or not hasattr(config, "vocab_size"):
        raise UsageError(
            f"{name}: is no text tower (it is a model of the type {config.model_type!r});"
            f" give a text model, such as roberta-base"
        )
    tower = load_weights(name, source, from_scratch=("pooler.",))
    with torch.inference_mode():
        features = tower(input_ids=torch.zeros(1, 1, dtype=torch.int64))
    if getattr(features, "pooler_output", None) is None:
        raise UsageError(
            f"{name}: its text tower gives no single vector for a text (no pooler);"
            f" give a BERT or RoBERTa checkpoint"
        )
    return tower
