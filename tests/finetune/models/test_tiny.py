"""The small CLIP from scratch: its tokenizer, its pooling, its seeds."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPModel

from finetune.models.tiny import TinySize, caption_tokenizer, tiny_clip

CAPTIONS = [
    "Two red circles left of a blue square",
    "two red circles above a green star",
    "ein Café in Zürich",
    "東京の夜",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return caption_tokenizer(CAPTIONS)


def test_words_of_the_captions_are_single_tokens(tokenizer) -> None:
    assert tokenizer.tokenize("RED  circles\nof Zürich") == [
        "red</w>", "circles</w>", "of</w>", "zÃ¼rich</w>",
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_keeps_its_characters(text) -> None:
    tokenizer = caption_tokenizer(CAPTIONS)
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
    # Decoding loses spaces and nothing else.
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(decoded.split()) == "".join(normal.split())


def test_vocabulary_is_bounded(tokenizer) -> None:
    many = ["".join(word) for word in product("aeiou", "bdfgk", "lmnrst", "xyz")] * 2
    assert len(caption_tokenizer(many, vocabulary=700)) == 700
    assert len(caption_tokenizer(["a"], vocabulary=10)) == 514
    assert len(tokenizer) < 700


def test_end_of_text_is_the_highest_id_and_not_2(tokenizer) -> None:
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == tokenizer.bos_token_id + 1
    config = tiny_clip(CAPTIONS).model.config.text_config
    assert config.eos_token_id == tokenizer.eos_token_id != 2


@torch.inference_mode()
def test_text_is_pooled_at_its_end() -> None:
    built = tiny_clip(CAPTIONS)
    batch = built.tokenizer(["red", "two red circles"], padding=True, return_tensors="pt")
    output = built.model.text_model(**batch)
    ends = batch.attention_mask.sum(1) - 1
    expected = output.last_hidden_state[torch.arange(2), ends]
    torch.testing.assert_close(output.pooler_output, expected, rtol=0, atol=0)


def test_the_defaults_have_about_400_thousand_parameters() -> None:
    built = tiny_clip(CAPTIONS)
    assert 380_000 < sum(value.numel() for value in built.model.parameters()) < 480_000
    assert (built.preprocessing.height, built.preprocessing.width) == (64, 64)


def test_seeds() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (tiny_clip(CAPTIONS, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["text_projection.weight"], other["text_projection.weight"])


def test_it_loads_in_plain_transformers(tmp_path) -> None:
    built = tiny_clip(CAPTIONS, size=TinySize(width=32, mlp_width=64, layers=1, projection=16))
    built.model.save_pretrained(tmp_path)
    built.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = CLIPModel.from_pretrained(tmp_path)
    texts = ["Two RED circles", "unseen wörds 123 🙂", ""]
    assert tokenizer(texts).input_ids == built.tokenizer(texts).input_ids
    assert tokenizer.model_max_length == 77
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model.get_text_features(**batch).pooler_output
        expected = built.model.get_text_features(**batch).pooler_output
    assert found.shape == (3, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
