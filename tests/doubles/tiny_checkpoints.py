"""Tiny checkpoints of the same classes as the hub's, with seeded random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)

from finetune.images.processor_config import preprocessor_config
from finetune.models.pretrained import quiet_transformers
from finetune.models.tiny import TinyClip, TinySize, tiny_clip

CAPTIONS = ["two red circles", "a blue square", "two dogs on a beach", "a red car"] * 2
SMALL = TinySize(image_size=32, width=32, mlp_width=64, heads=2, projection=24, max_tokens=20)
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def save_clip(folder: Path, *, size: TinySize = SMALL, seed: int = 0, **text_and_image) -> TinyClip:
    """As openai/clip-vit-base-patch32; other keywords are settings of both towers."""
    built = tiny_clip(CAPTIONS, size=size, seed=seed)
    for tower in (built.model.config.text_config, built.model.config.vision_config):
        for key, value in text_and_image.items():
            setattr(tower, key, value)
    with quiet_transformers():
        built.model.save_pretrained(folder)
        built.tokenizer.save_pretrained(folder)
    _write_preprocessing(folder, preprocessor_config(built.preprocessing, "clip"))
    return built


def save_siglip(folder: Path, *, seed: int = 0, max_tokens: int = 16) -> None:
    """As google/siglip-base-patch16-224: no begin of text, filled to the full length, no mask.

    A token is a byte: captions of more than `max_tokens` are cut, and equal where they begin alike.
    """
    vocab = {token: index for index, token in enumerate(["<pad>", "</s>", *ALPHABET])}
    raw = Tokenizer(BPE(vocab=vocab, merges=[]))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", model_max_length=max_tokens
    )
    _save_siglip(folder, tokenizer, len(vocab), seed, max_tokens)


def save_siglip2(folder: Path, *, seed: int = 0) -> None:
    """As google/siglip2-base-patch16-224, of fixed size: SigLIP's model, Gemma's tokenizer.

    Its tokenizer has no limit of its own, and fills on the left unless told otherwise.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    characters = ["▁", *(chr(code) for code in range(33, 127))]
    vocab = {token: index for index, token in enumerate([*special, *characters])}
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=[])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    _save_siglip(folder, tokenizer, len(vocab), seed)


def _save_siglip(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: int,
    seed: int,
    max_tokens: int = 16,
) -> None:
    text = {"vocab_size": vocabulary, "max_position_embeddings": max_tokens, "projection_size": 32}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(text_config=TOWER | text, vision_config=TOWER | vision))
    with torch.no_grad():
        # Otherwise all texts have nearly the same embedding.
        model.text_model.embeddings.token_embedding.weight.mul_(30)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_preprocessing(
        folder,
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": 32, "width": 32},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
        },
    )


def save_roberta(folder: Path, *, seed: int = 0) -> None:
    """As roberta-base: a language model without a pooler; 18 positions hold 16 tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: index for index, token in enumerate([*special, *ALPHABET, "<mask>"])}
    tokenizer = RobertaTokenizer(vocab=vocab, merges=[], model_max_length=512)
    config = RobertaConfig(
        **TOWER,
        vocab_size=len(vocab),
        max_position_embeddings=18,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    with quiet_transformers():
        RobertaForMaskedLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def save_bert(folder: Path) -> None:
    """A text model with a pooler, and without a tokenizer."""
    config = BertConfig(**TOWER)
    with quiet_transformers():
        BertModel(config).save_pretrained(folder)


def _write_preprocessing(folder: Path, config: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
