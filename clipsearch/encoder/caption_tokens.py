"""How many tokens captions are to an encoder folder, or to a model before fine-tuning."""

from collections.abc import Sequence
from pathlib import Path

from finetune.encoder_folder import read_description
from finetune.manifest.cut_captions import CaptionTokenizer
from finetune.text.composed import composed


def tokenizer_of_encoder(folder: Path) -> CaptionTokenizer:
    """Load the tokenizer of an encoder folder without its towers. Raises EncoderError."""
    from clipsearch.encoder.encoder import load_tokenizer  # light path: numpy, Pillow

    description = read_description(folder)
    tokenizer = load_tokenizer(folder, description.max_tokens)
    tokenizer.no_truncation()

    def lengths(texts: Sequence[str]) -> list[int]:
        encodings = tokenizer.encode_batch([composed(text) for text in texts])
        return [len(encoding.ids) for encoding in encodings]

    return CaptionTokenizer(str(folder), description.max_tokens, lengths)


def tokenizer_of_model(name: str, captions: Sequence[str]) -> CaptionTokenizer:
    """Load the tokenizer of a model that `clipsearch finetune --model` takes.

    "tiny" learns words from `captions`.

    Raises UsageError and EncoderError, as training would.
    """
    from finetune.models.dual_encoder import (
        load_dual_encoder,  # takes seconds: torch and transformers
    )

    dual = load_dual_encoder(name, captions)
    return CaptionTokenizer(name, dual.max_tokens, dual.token_counts)
