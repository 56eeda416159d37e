"""Loading checkpoints: what works gives transformers' own embeddings, what cannot says why."""

import json
from itertools import product

import pytest
import torch
from tiny_checkpoints import CAPTIONS, SMALL, save_siglip2
from transformers import AutoTokenizer, BertConfig, BertModel

from finetune.errors import EncoderError, UsageError
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.tiny import tiny_clip


@pytest.fixture
def siglip2_folder(tmp_path):
    """A SigLIP 2 checkpoint of fixed size: SigLIP's model with another kind of tokenizer."""
    save_siglip2(tmp_path / "siglip2")
    return tmp_path / "siglip2"


def edit_json(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@torch.inference_mode()
def test_clip_gives_transformers_own_embeddings(clip_folder) -> None:
    dual = load_dual_encoder(clip_folder)
    assert (dual.family, dual.dimension, dual.max_tokens) == ("clip", 24, 20)
    assert (dual.pad_to_max, dual.logit_bias) == (False, None)
    assert dual.preprocessing == tiny_clip(CAPTIONS, size=SMALL).preprocessing
    ids, mask = dual.tokenize(["a red car", "two dogs on a blue beach"])
    pixels = torch.randn(2, 3, 32, 32)
    expected = dual.model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    texts, images = dual.embed_texts(ids, mask), dual.embed_images(pixels)
    torch.testing.assert_close(texts, expected.text_embeds)
    torch.testing.assert_close(images, expected.image_embeds)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts @ images.T * dual.logit_scale.exp(), expected.logits_per_text)


@torch.inference_mode()
def test_siglip_gives_transformers_own_embeddings(siglip_folder) -> None:
    dual = load_dual_encoder(siglip_folder)
    assert (dual.family, dual.dimension, dual.pad_to_max) == ("siglip", 32, True)
    assert dual.preprocessing.resize == "exact"
    ids, mask = dual.tokenize(["cat", "a red car"])
    assert ids.shape == (2, 16)
    pixels = torch.randn(2, 3, 32, 32)
    expected = dual.model(input_ids=ids, pixel_values=pixels)
    texts, images = dual.embed_texts(ids, mask), dual.embed_images(pixels)
    torch.testing.assert_close(texts, expected.text_embeds)
    torch.testing.assert_close(images, expected.image_embeds)
    logits = texts @ images.T * dual.logit_scale.exp() + dual.logit_bias
    torch.testing.assert_close(logits, expected.logits_per_text)
    # Padding that is shorter than the tower's length changes nothing.
    torch.testing.assert_close(dual.embed_texts(ids[:, :10], mask[:, :10]), texts)


@torch.inference_mode()
def test_siglip2_of_fixed_size(siglip2_folder) -> None:
    dual = load_dual_encoder(siglip2_folder)
    assert (dual.family, dual.pad_to_max, dual.max_tokens) == ("siglip", True, 16)
    texts = ["A Cat", "a red car"]
    ids, mask = dual.tokenize(texts)
    # Its class fills on the left unless told otherwise; the model was trained with the right.
    tokenizer = AutoTokenizer.from_pretrained(siglip2_folder, padding_side="right")
    expected = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    assert torch.equal(ids, expected.input_ids)
    assert mask.sum(1).tolist() == [6, 10]
    vectors = dual.model(input_ids=ids, pixel_values=torch.zeros(1, 3, 32, 32)).text_embeds
    torch.testing.assert_close(dual.embed_texts(ids, mask), vectors)


def test_a_tokenizer_class_that_needs_sentencepiece(siglip_folder) -> None:
    # What google/siglip-base-patch16-224 says of itself.
    edit_json(siglip_folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    ids, _ = load_dual_encoder(siglip_folder).tokenize(["a"])
    assert ids[0, 1] == 1


@torch.inference_mode()
def test_padding_does_not_change_a_text(clip_folder) -> None:
    dual = load_dual_encoder(clip_folder)
    alone = dual.embed_texts(*dual.tokenize(["a red car"]))
    padded = dual.embed_texts(*dual.tokenize(["a red car", "two dogs " * 30]))
    torch.testing.assert_close(padded[:1], alone)


def test_long_texts_are_cut_and_keep_their_end(clip_folder) -> None:
    dual = load_dual_encoder(clip_folder, max_tokens=7)
    ids, mask = dual.tokenize(["red " * 40, "red"])
    assert ids.shape == mask.shape == (2, 7)
    assert ids[0, -1] == dual.tokenizer.eos_token_id
    assert mask.sum(1).tolist() == [7, 3]


@pytest.mark.parametrize("asked", [2, 21])
def test_max_tokens_that_cannot_be(clip_folder, asked) -> None:
    with pytest.raises(UsageError, match=rf"max tokens is {asked}, but"):
        load_dual_encoder(clip_folder, max_tokens=asked)


def test_weights_in_half_precision_are_loaded_in_float32(clip_folder) -> None:
    dual = load_dual_encoder(clip_folder)
    dual.model.half().save_pretrained(clip_folder)
    assert load_dual_encoder(clip_folder).logit_scale.dtype == torch.float32


def test_tiny() -> None:
    dual = load_dual_encoder("tiny", CAPTIONS, seed=3)
    assert isinstance(dual, DualEncoder)
    assert (dual.base_model, dual.max_tokens) == ("tiny", 77)
    with pytest.raises(UsageError, match="builds its tokenizer from captions"):
        load_dual_encoder("tiny")


def test_the_old_rule_of_pooling_at_the_highest_id(clip_folder) -> None:
    # The configuration of openai/clip-vit-base-patch32 says 2, and its true end is the highest id.
    dual = load_dual_encoder(clip_folder)
    config = json.loads((clip_folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    edit_json(clip_folder / "config.json", **config)
    old = load_dual_encoder(clip_folder)
    batch = dual.tokenize(["a red car", "two dogs on a blue beach"])
    with torch.inference_mode():
        torch.testing.assert_close(old.embed_texts(*batch), dual.embed_texts(*batch))


def test_a_text_tower_that_would_be_read_at_the_wrong_place(clip_folder) -> None:
    config = json.loads((clip_folder / "config.json").read_text())
    end = config["text_config"]["eos_token_id"]
    config["text_config"]["eos_token_id"] = 5
    edit_json(clip_folder / "config.json", **config)
    with pytest.raises(EncoderError, match=rf"eos_token_id in config.json is 5.* set it to {end}$"):
        load_dual_encoder(clip_folder)


def test_a_folder_that_is_no_checkpoint(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no transformers checkpoint \(it has no config.json\)"):
        load_dual_encoder(tmp_path)
    with pytest.raises(UsageError, match="no such folder, and not a Hugging Face id"):
        load_dual_encoder(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        load_dual_encoder(tmp_path / "file")


def test_another_kind_of_model(tmp_path) -> None:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"type 'bert'.*supported are clip, siglip, .* and 'tiny'"):
        load_dual_encoder(tmp_path)


def test_siglip2_of_variable_resolution(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(UsageError, match=r"NaFlex.* such as google/siglip2-base-patch16-224$"):
        load_dual_encoder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "cannot be loaded"),
        ("config.json", "{}", "cannot be loaded"),
        ("model.safetensors", "", "cannot be loaded"),
        ("model.safetensors", None, "cannot be loaded"),
        ("tokenizer.json", "{}", "cannot be loaded"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ("preprocessor_config.json", "{", "no preprocessor_config.json"),
    ],
)
def test_broken_files(clip_folder, file, content, message) -> None:
    path = clip_folder / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises((EncoderError, UsageError), match=message) as caught:
        load_dual_encoder(clip_folder)
    assert "\n" not in str(caught.value)
    assert str(clip_folder) in str(caught.value)


def test_the_tokenizer_of_another_model(clip_folder) -> None:
    words = ["".join(word) for word in product("aeiou", "bdfgk", "lmnrst")] * 2
    tiny_clip(words).tokenizer.save_pretrained(clip_folder)
    with pytest.raises(EncoderError, match="it is the tokenizer of another model"):
        load_dual_encoder(clip_folder)


def test_weights_that_do_not_fill_the_model(clip_folder) -> None:
    config = json.loads((clip_folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    edit_json(clip_folder / "config.json", **config)
    with pytest.raises(EncoderError, match=r"weights do not fill the model \(16 tensors"):
        load_dual_encoder(clip_folder)


def test_an_id_that_cannot_be_downloaded() -> None:
    with pytest.raises(UsageError, match="could be downloaded") as caught:
        load_dual_encoder("nobody/has-this-model")
    assert "\n" not in str(caught.value)
