"""Writing OpenCLIP's layout: the same tensors, a folder that open_clip takes, and nothing lost."""

import errno
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_checkpoints import save_clip, save_siglip
from transformers import CLIPModel

from finetune.errors import ClipsearchError, UsageError
from finetune.export import openclip as room
from finetune.export.card_facts import CardFacts
from finetune.export.openclip import export_open_clip
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.lora import add_lora
from finetune.models.openclip import CONFIG_FILE, WEIGHTS_FILE

TEXTS = ["a red car", "two dogs on a beach " * 9, "", "unseen wörds 123 🙂"]


def checkpoint(tmp_path, **settings) -> DualEncoder:
    save_clip(tmp_path / "clip", **settings)
    return load_dual_encoder(tmp_path / "clip")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
@torch.inference_mode()
def test_what_was_written_is_the_same_model(tmp_path, act: str) -> None:
    dual = checkpoint(tmp_path, hidden_act=act)
    export_open_clip(dual, tmp_path / "out")
    found = load_dual_encoder(tmp_path / "out")
    assert found.preprocessing == dual.preprocessing
    assert (found.max_tokens, found.pad_token_id) == (dual.max_tokens, dual.pad_token_id)
    state = found.model.state_dict()
    assert state.keys() == dual.model.state_dict().keys()
    for name, value in dual.model.state_dict().items():
        assert torch.equal(state[name], value), name
    ids, mask = dual.tokenize(TEXTS)
    assert torch.equal(found.tokenize(TEXTS)[0], ids)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.embed_texts(ids, mask), dual.embed_texts(ids, mask))
    assert torch.equal(found.embed_images(pixels), dual.embed_images(pixels))


def test_what_is_in_the_folder(tmp_path) -> None:
    dual = checkpoint(tmp_path)
    dual.base_model = "openai/clip-vit-base-patch32"
    export_open_clip(dual, tmp_path / "out", name="Birds", facts=CardFacts(license="mit"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        ".clipsearch.json", CONFIG_FILE, WEIGHTS_FILE, "README.md",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "."
    assert config["preprocess_cfg"]["resize_mode"] == "shortest"
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "clipsearch", "image-search"],
        "license": "mit",
        "base_model": "openai/clip-vit-base-patch32",
    }
    assert "# Birds" in card


def test_a_tokenizer_of_its_own_is_named_by_its_place_on_the_hub(tmp_path) -> None:
    export_open_clip(checkpoint(tmp_path), tmp_path / "out", hub_id="me/birds")
    config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "me/birds"


def test_the_bias_of_the_sigmoid_loss_travels_too(tmp_path) -> None:
    dual = checkpoint(tmp_path)
    dual.ensure_logit_bias()
    export_open_clip(dual, tmp_path / "out")
    assert load_file(tmp_path / "out" / WEIGHTS_FILE)["logit_bias"].item() == -10
    config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
    assert config["model_cfg"]["init_logit_bias"] == -10
    assert load_dual_encoder(tmp_path / "out").logit_bias.item() == -10


@torch.inference_mode()
def test_adapters_are_merged(tmp_path) -> None:
    dual = checkpoint(tmp_path)
    add_lora(dual, rank=2)
    for name, parameter in dual.model.named_parameters():
        if ".lora_B" in name:
            parameter.normal_()
    batch = dual.tokenize(TEXTS)
    expected = dual.embed_texts(*batch)
    export_open_clip(dual, tmp_path / "out")
    found = load_dual_encoder(tmp_path / "out").embed_texts(*batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_another_family_is_refused(tmp_path) -> None:
    save_siglip(tmp_path / "siglip")
    with pytest.raises(UsageError, match=r"for CLIP models, but .* is of the family siglip"):
        export_open_clip(load_dual_encoder(tmp_path / "siglip"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_to": 40}, "resized to 40 and cropped to 32x32"),
        ({"width": 48}, "cropped to 48x32"),
        ({"resample": "lanczos"}, "resized with lanczos, but OpenCLIP has bicubic"),
    ],
)
def test_preprocessing_that_open_clip_lacks(tmp_path, change: dict, message: str) -> None:
    dual = checkpoint(tmp_path)
    values = {name: getattr(dual.preprocessing, name) for name in dual.preprocessing.__slots__}
    dual.preprocessing = type(dual.preprocessing)(**values | change)
    with pytest.raises(UsageError, match=message):
        export_open_clip(dual, tmp_path / "out")


def test_only_an_open_clip_folder_is_replaced(tmp_path) -> None:
    dual = checkpoint(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="has files in it but is no OpenCLIP folder"):
        export_open_clip(dual, tmp_path / "thesis")
    with pytest.raises(UsageError, match="is a file"):
        export_open_clip(dual, tmp_path / "thesis" / "chapter.txt")
    export_open_clip(dual, tmp_path / "out")
    with torch.no_grad():
        dual.model.logit_scale.fill_(1.5)
    export_open_clip(dual, tmp_path / "out")
    assert load_dual_encoder(tmp_path / "out").logit_scale.item() == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "out", "thesis"]


@pytest.mark.parametrize("moment", ["save_file", "_card", "_check"])
def test_a_full_disk_leaves_the_old_folder_whole(tmp_path, monkeypatch, moment: str) -> None:
    dual = checkpoint(tmp_path)
    export_open_clip(dual, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "before")

    def fail(*arguments, **options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, moment, fail)
    with pytest.raises(ClipsearchError, match=r"could not be written .*No space left on device"):
        export_open_clip(dual, tmp_path / "out")
    for path in (tmp_path / "before").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "clip", "out"]


def test_a_tensor_that_came_back_wrong_is_an_error(tmp_path, monkeypatch) -> None:
    dual = checkpoint(tmp_path)
    plain = room.to_open_clip

    def swapped(state, config):
        tensors = plain(state, config)
        name = "visual.transformer.resblocks.0.attn.in_proj_weight"
        return tensors | {name: tensors[name].flip(0)}

    monkeypatch.setattr(room, "to_open_clip", swapped)
    with pytest.raises(ClipsearchError, match="is another tensor after writing it"):
        export_open_clip(dual, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
@torch.inference_mode()
def test_open_clip_loads_it(tmp_path, act: str) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip needs torchvision")
    dual = checkpoint(tmp_path, hidden_act=act)
    export_open_clip(dual, tmp_path / "out")
    model = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    pixels = torch.randn(2, 3, 32, 32)
    plain = CLIPModel.from_pretrained(tmp_path / "clip")
    images = torch.nn.functional.normalize(plain.get_image_features(pixels).pooler_output, dim=-1)
    texts = dual.embed_texts(*dual.tokenize(TEXTS))
    torch.testing.assert_close(model.encode_image(pixels, normalize=True), images)
    torch.testing.assert_close(model.encode_text(tokenize(TEXTS), normalize=True), texts)
    torch.testing.assert_close(model.logit_scale, dual.logit_scale)
