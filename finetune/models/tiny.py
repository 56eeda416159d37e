"""A small CLIP from scratch with a tokenizer built from the captions: for offline work and tests.

Architecture and tokenizer are CLIP's own (Radford et al. 2021, arXiv:2103.00020), only small, so
that the result is a plain transformers checkpoint.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

from finetune.images.preprocessing import Preprocessing

END_OF_WORD = "</w>"
BEGIN_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class TinySize:
    """Sizes of the two towers. The defaults have about 0.4 million parameters.

    Attributes:
        image_size, patch_size: In pixels.
        width: Of both towers.
        mlp_width: Of the hidden layer of each block's MLP.
        layers: Of each tower.
        heads: Of each layer.
        projection: Values in an embedding.
        max_tokens: Positions of the text tower, begin and end of the text included.
        vocabulary: At most so many tokens; at least 514 (every byte twice, and two marks).
    """

    image_size: int = 64
    patch_size: int = 16
    width: int = 96
    mlp_width: int = 192
    layers: int = 2
    heads: int = 4
    projection: int = 96
    max_tokens: int = 77
    vocabulary: int = 4096


@dataclass(frozen=True, slots=True)
class TinyClip:
    """What `tiny_clip` builds."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    preprocessing: Preprocessing


def tiny_clip(captions: Iterable[str], *, size: TinySize | None = None, seed: int = 0) -> TinyClip:
    """Make a CLIP with random weights whose tokenizer knows the words of `captions`.

    The same captions, size and seed give the same weights; torch's own random state is untouched.
    """
    size = TinySize() if size is None else size
    tokenizer = caption_tokenizer(captions, vocabulary=size.vocabulary, max_tokens=size.max_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(_configuration(size, tokenizer)).eval()
    return TinyClip(model, tokenizer, _preprocessing(size))


def tiny_image_tower(size: TinySize | None = None) -> tuple[CLIPVisionModel, Preprocessing]:
    """Make the image tower alone, for a text tower of another kind.

    Its weights are the next that torch draws.

    It has no projection into a common space.
    """
    size = TinySize() if size is None else size
    config = CLIPVisionConfig(
        **_tower(size), image_size=size.image_size, patch_size=size.patch_size
    )
    return CLIPVisionModel(config).eval(), _preprocessing(size)


def _preprocessing(size: TinySize) -> Preprocessing:
    return Preprocessing(
        height=size.image_size,
        width=size.image_size,
        resize="shortest-edge",
        resize_to=size.image_size,
        resample="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def caption_tokenizer(
    captions: Iterable[str], *, vocabulary: int = 4096, max_tokens: int = 77
) -> CLIPTokenizer:
    """Learn CLIP's lower-casing byte-level BPE from `captions`.

    Every byte is in the vocabulary, with and without the mark of a word's end, so that no text
    has an unknown token. As in CLIP's own vocabulary begin and end of the text are the two
    highest ids: the tower is then read at the end of the text under either of transformers'
    rules (see `finetune.models.dual_encoder`).
    """
    analysis = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    single = [*alphabet, *(character + END_OF_WORD for character in alphabet)]
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer = analysis.normalizer
    learner.pre_tokenizer = analysis.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocabulary - 2, len(single)),
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]
    # The learner knows only the single characters that it met, so its limit leaves too much room.
    merges = [tuple(merge) for merge in learned["merges"]][: max(vocabulary - 2 - len(single), 0)]
    tokens = dict.fromkeys([*single, *(left + right for left, right in merges)])
    tokens |= dict.fromkeys([BEGIN_OF_TEXT, END_OF_TEXT])
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=max_tokens,
    )


def _configuration(size: TinySize, tokenizer: CLIPTokenizer) -> CLIPConfig:
    tower = _tower(size)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": size.max_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": size.image_size, "patch_size": size.patch_size}
    return CLIPConfig(
        text_config=tower | text, vision_config=tower | vision, projection_dim=size.projection
    )


def _tower(size: TinySize) -> dict[str, Any]:
    return {
        "hidden_size": size.width,
        "intermediate_size": size.mlp_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "projection_dim": size.projection,
        # About four times as fast on a CPU as CLIP's quick_gelu.
        "hidden_act": "gelu_pytorch_tanh",
    }
