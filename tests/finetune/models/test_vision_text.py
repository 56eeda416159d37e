"""Dual encoders of two single-modality checkpoints; and every family down the whole road."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny_checkpoints import (
    CAPTIONS,
    TOWER,
    save_bert,
    save_clip,
    save_roberta,
    save_siglip,
    save_siglip2,
)
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from clipsearch.encoder.encoder import Encoder
from finetune.encoder_folder import TEXT_TOWER
from finetune.errors import EncoderError, UsageError
from finetune.export.encoder import export_encoder
from finetune.images.pixels import pixel_values
from finetune.images.processor_config import preprocessor_config
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder, load_two_towers
from finetune.models.pretrained import quiet_transformers

TEXTS = ["a red car", "two dogs on a beach " * 9, "", "unseen wörds 123 🙂", "two red circles"]


@pytest.fixture
def clip_folder(tmp_path):
    save_clip(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def roberta_folder(tmp_path):
    save_roberta(tmp_path / "roberta")
    return tmp_path / "roberta"


def load_family(family: str, tmp_path) -> DualEncoder:
    """A dual encoder of the family, from tiny checkpoints that are saved first."""
    save = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2}
    if family in save:
        save[family](tmp_path / family)
        return load_dual_encoder(tmp_path / family)
    save_clip(tmp_path / "clip")
    save_roberta(tmp_path / "roberta")
    return load_two_towers(tmp_path / "clip", tmp_path / "roberta", projection=24)


def train_one_step(dual: DualEncoder) -> None:
    """A step of plain contrastive learning on noise; every parameter that counts moves."""
    dual.train()
    optimizer = torch.optim.SGD(dual.parameters(), lr=0.1)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = dual.embed_texts(*dual.tokenize(CAPTIONS[:4]))
    logits = dual.embed_images(pixels) @ texts.T * dual.logit_scale.exp()
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    dual.zero_grad(set_to_none=True)
    dual.eval()


FAMILIES = ["clip", "siglip", "siglip2", "vision-text-dual-encoder"]


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_trained_exported_and_loaded_again(
    family: str, tmp_path, monkeypatch, capsys
) -> None:
    dual = load_family(family, tmp_path)
    before = {name: value.clone() for name, value in dual.model.state_dict().items()}
    train_one_step(dual)
    out = tmp_path / "encoder"
    description = export_encoder(dual, out)
    assert description.family == family.removesuffix("2")
    assert max(description.onnx_max_difference.values()) < 1e-5

    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, size=(50, 70, 3), dtype=np.uint8)
    )
    pixels = torch.from_numpy(pixel_values(image, dual.preprocessing))[None]
    with torch.inference_mode():
        texts, images = dual.embed_texts(*dual.tokenize(TEXTS)), dual.embed_images(pixels)

    encoder = Encoder.load(out)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images([image]), images, atol=1e-5)

    again = load_dual_encoder(out)
    assert (again.family, again.max_tokens, again.dimension, again.preprocessing) == (
        dual.family, dual.max_tokens, dual.dimension, dual.preprocessing,
    )  # fmt: skip
    moved = 0
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, dual.model.state_dict()[name]), name
        moved += not torch.equal(value, before[name])
    assert moved > len(before) * 0.8

    assert_plain_transformers_gives(out, dual, image, texts, images)
    image.save(out / "photo.jpg")
    monkeypatch.chdir(out)
    assert_the_snippet_of_the_card_runs(out, capsys)


def assert_the_snippet_of_the_card_runs(out, capsys) -> None:
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.startswith("tensor([[0.")


@torch.inference_mode()
def assert_plain_transformers_gives(out, dual, image, texts, images) -> None:
    """With nothing of ours: AutoModel and AutoProcessor on the folder, as the card says."""
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    inputs = processor(
        text=TEXTS,
        images=[image],
        padding="max_length" if dual.pad_to_max else True,
        truncation=True,
        max_length=dual.max_tokens,
        return_tensors="pt",
    )
    if dual.pad_to_max:
        inputs.pop("attention_mask", None)
    found = model(**inputs)
    torch.testing.assert_close(found.text_embeds, texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image_embeds, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_text_of_any_length_is_padded_inside_the_graph(family: str, tmp_path) -> None:
    """As Vespa's hugging-face-embedder feeds it: tokens of one text, a mask of ones, no padding."""
    dual = load_family(family, tmp_path)
    out = tmp_path / "encoder"
    export_encoder(dual, out)
    session = onnxruntime.InferenceSession(out / TEXT_TOWER)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(dual.max_tokens)
    assert {node.name for node in session.get_inputs()} == {"input_ids", "attention_mask"}
    lengths = set()
    for count in range(dual.max_tokens + 3):
        text = "abcdefghijklmnopqrstuvwxyz"[:count]
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        lengths.add(ids.shape[1])
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        # The oracle is transformers' own model on what its tokenizer pads to the full length.
        full = dual.tokenizer(
            text, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
        )
        with torch.inference_mode():
            pooled = dual.model.get_text_features(input_ids=full.input_ids).pooler_output
        expected = torch.nn.functional.normalize(pooled, dim=-1)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert lengths == set(range(1, 17))


def test_the_towers_are_those_of_the_checkpoints(clip_folder, roberta_folder) -> None:
    dual = load_two_towers(clip_folder, roberta_folder, projection=24)
    assert isinstance(dual.model, VisionTextDualEncoderModel)
    assert (dual.family, dual.dimension, dual.max_tokens, dual.pad_to_max) == (
        "vision-text-dual-encoder", 24, 16, False,
    )  # fmt: skip
    assert dual.base_model == f"{clip_folder} + {roberta_folder}"
    image = CLIPModel.from_pretrained(clip_folder).vision_model.state_dict()
    text = RobertaModel.from_pretrained(roberta_folder, add_pooling_layer=False).state_dict()
    found = dual.model.state_dict()
    for name, value in image.items():
        assert torch.equal(found[f"vision_model.{name}"], value), name
    for name, value in text.items():
        assert torch.equal(found[f"text_model.{name}"], value), name
    scratch = set(found) - {f"vision_model.{n}" for n in image} - {f"text_model.{n}" for n in text}
    assert scratch == {
        "logit_scale", "visual_projection.weight", "text_projection.weight",
        "text_model.pooler.dense.weight", "text_model.pooler.dense.bias",
    }  # fmt: skip


def test_what_is_from_scratch_follows_from_the_seed_alone(clip_folder, roberta_folder) -> None:
    torch.manual_seed(5)
    first = load_two_towers(clip_folder, roberta_folder, seed=3).model.state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after), "torch's own random state is untouched"
    again = load_two_towers(clip_folder, roberta_folder, seed=3).model.state_dict()
    other = load_two_towers(clip_folder, roberta_folder, seed=4).model.state_dict()
    for name, value in first.items():
        assert torch.equal(again[name], value), name
    for name in ("visual_projection.weight", "text_projection.weight"):
        assert not torch.equal(other[name], first[name])
        assert first[name].std() > 0


def test_siglip_and_vit_as_image_towers(roberta_folder, tmp_path) -> None:
    save_siglip(tmp_path / "siglip")
    vit = ViTConfig(**TOWER, image_size=32, patch_size=16)
    with quiet_transformers():
        ViTModel(vit).save_pretrained(tmp_path / "vit")
    preprocessing = load_dual_encoder(tmp_path / "siglip").preprocessing
    config = preprocessor_config(preprocessing, "siglip") | {
        "image_processor_type": "ViTImageProcessor"
    }
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(config))
    for name in ("siglip", "vit"):
        dual = load_two_towers(tmp_path / name, roberta_folder)
        assert dual.preprocessing == preprocessing
        assert dual.embed_images(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_a_folder_that_plain_transformers_saved(clip_folder, roberta_folder, tmp_path) -> None:
    """As Hugging Face's run_clip.py leaves it."""
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        str(clip_folder), str(roberta_folder), projection_dim=24
    )
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(clip_folder).image_processor.save_pretrained(folder)
    AutoTokenizer.from_pretrained(roberta_folder).save_pretrained(folder)
    dual = load_dual_encoder(folder)
    assert (dual.family, dual.dimension, dual.max_tokens) == ("vision-text-dual-encoder", 24, 16)
    ids, mask = dual.tokenize(["a red car", "b"])
    with torch.inference_mode():
        plain = model.eval().get_text_features(input_ids=ids, attention_mask=mask)
        expected = torch.nn.functional.normalize(plain.pooler_output, dim=-1)
        torch.testing.assert_close(dual.embed_texts(ids, mask), expected)


@pytest.mark.parametrize("projection", [0, -3])
def test_a_projection_that_cannot_be(clip_folder, roberta_folder, projection: int) -> None:
    with pytest.raises(UsageError, match=f"the projection has {projection} values"):
        load_two_towers(clip_folder, roberta_folder, projection=projection)


def test_towers_of_the_wrong_kind(clip_folder, roberta_folder, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"is no text tower .* type 'clip'.* such as roberta-base"):
        load_two_towers(clip_folder, clip_folder)
    with pytest.raises(EncoderError, match="has no preprocessor_config"):
        load_two_towers(roberta_folder, roberta_folder)
    save_bert(tmp_path / "bert")
    with pytest.raises((EncoderError, UsageError), match="tokenizer") as caught:
        load_two_towers(clip_folder, tmp_path / "bert")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="missing: no such folder"):
        load_two_towers(clip_folder, tmp_path / "missing")


def test_a_text_tower_without_one_vector_for_a_text(clip_folder, roberta_folder) -> None:
    config = DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2, vocab_size=300)
    with quiet_transformers():
        DistilBertModel(config).save_pretrained(roberta_folder)
    with pytest.raises(UsageError, match=r"\(no pooler\); give a BERT or RoBERTa checkpoint"):
        load_two_towers(clip_folder, roberta_folder)


def test_a_text_tower_with_weights_missing(clip_folder, roberta_folder) -> None:
    config = json.loads((roberta_folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (roberta_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"weights do not fill the model \(16 tensors"):
        load_two_towers(clip_folder, roberta_folder)
