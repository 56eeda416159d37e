"""Tiny MarianMT checkpoints, saved by transformers' own classes with a real sentencepiece model."""

import io
import json
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

PIECES = 60


def save_tiny_marian(
    folder: Path, sentences: list[str], *, seed: int = 0, languages: tuple[str, ...] = ()
) -> Path:
    """A translator of random weights: what it writes is nonsense, but always the same.

    One of several target languages, as opus-mt-en-ROMANCE, must be told which: ">>fr<< a red boat".
    """
    folder.mkdir(parents=True)
    learned = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=learned,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1,
        minloglevel=2,
    )  # fmt: skip
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(learned.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=learned.getvalue())
    # as in the published checkpoints: the end first, the padding last, both outside the pieces
    words = ["</s>", "<unk>"]
    words += [piece for i in range(len(pieces)) if (piece := pieces.id_to_piece(i)) not in words]
    words += [f">>{language}<<" for language in languages]
    words.append("<pad>")
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = MarianTokenizer(
        *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")),
        source_lang="en", target_lang="fr",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    padding = len(vocabulary) - 1
    config = MarianConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=padding,
        decoder_start_token_id=padding, eos_token_id=0, forced_eos_token_id=0,
        scale_embedding=True,
        init_std=1.0,  # so that what it writes depends on what it reads
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MarianMTModel(config).eval()
    model.save_pretrained(folder)
    return folder
