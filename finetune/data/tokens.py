"""Captions as token ids, made once for a whole data set."""

from finetune.data.tokenized_captions import TokenizedCaptions, tokenized
from finetune.models.dual_encoder import DualEncoder

TOKENIZE_AT_ONCE = 10_000


def tokenize(dual: DualEncoder, captions: tuple[str, ...]) -> TokenizedCaptions:
    """Return token ids of all captions, cut at the model's limit."""
    rows: list[list[int]] = []
    cut = 0
    for start in range(0, len(captions), TOKENIZE_AT_ONCE):
        part = list(captions[start : start + TOKENIZE_AT_ONCE])
        found = dual.tokenizer(part, truncation=True, max_length=dual.max_tokens)["input_ids"]
        # Only one that fills the tower may have been longer.
        full = [text for text, ids in zip(part, found, strict=True) if len(ids) >= dual.max_tokens]
        if full:
            # It still cuts as it was just told to; another setting would be exported with it.
            encodings = dual.tokenizer.backend_tokenizer.encode_batch(full)
            cut += sum(bool(encoding.overflowing) for encoding in encodings)
        rows += found
    return tokenized(
        rows,
        pad_token_id=dual.pad_token_id,
        pad_to=dual.max_tokens if dual.pad_to_max else None,
        cut=cut,
    )
