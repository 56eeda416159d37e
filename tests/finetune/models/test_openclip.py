"""OpenCLIP's checkpoints: the embeddings that open_clip gives, and each tensor there and back."""

import json

import pytest
import torch
from open_clip_model import model_config, pixels, token_ids, tokenizer, weights
from safetensors.torch import save_file
from tiny_checkpoints import save_clip
from transformers import CLIPModel

from finetune.errors import EncoderError, UsageError
from finetune.models.dual_encoder import load_dual_encoder
from finetune.models.openclip import CONFIG_FILE, WEIGHTS_FILE
from finetune.models.openclip_weights import (
    clip_config,
    open_clip_model_config,
    to_open_clip,
    to_transformers,
)

END_OF_TEXT = 513
CLOSE = {"atol": 2e-6, "rtol": 0}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def answers(recorded) -> dict:
    """What open_clip 3.3 gives for the model of open_clip_model."""
    return json.loads((recorded / "open_clip.json").read_text())


@pytest.fixture
def state(answers) -> dict[str, torch.Tensor]:
    return weights(answers["shapes"])


@pytest.fixture
def folder(tmp_path, state):
    """An OpenCLIP checkpoint as a folder."""
    path = tmp_path / "open_clip"
    tokenizer().save_pretrained(path)
    config = {"model_cfg": model_config(quick_gelu=False), "preprocess_cfg": PREPROCESS}
    (path / CONFIG_FILE).write_text(json.dumps(config))
    save_file(state, path / WEIGHTS_FILE)
    return path


def edit(folder, section: str, **values) -> None:
    """Set values in the folder's configuration; "vision_cfg" and "text_cfg" are in model_cfg."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    part = config if section == "preprocess_cfg" else config["model_cfg"]
    part = config["model_cfg"] if section == "model_cfg" else part[section]
    part.update(values)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@torch.inference_mode()
def test_embeddings_are_those_of_open_clip(folder, answers, activation: str) -> None:
    edit(folder, "model_cfg", quick_gelu=activation == "quick_gelu")
    dual = load_dual_encoder(folder)
    assert (dual.family, dual.dimension, dual.max_tokens) == ("clip", 16, 12)
    ids = token_ids()
    mask = (ids > 0).long()
    for name, found in (
        ("images", dual.embed_images(pixels())),
        ("texts", dual.embed_texts(ids, mask)),
    ):
        torch.testing.assert_close(found, torch.tensor(answers[activation][name]), **CLOSE)
        other = answers["gelu" if activation == "quick_gelu" else "quick_gelu"][name]
        assert (found - torch.tensor(other)).abs().max() > 1e-3


def test_each_tensor_there_and_back(state, answers) -> None:
    config = clip_config("x", model_config(quick_gelu=False), END_OF_TEXT)
    ours = to_transformers("x", state, config)
    back = to_open_clip(ours, config)
    assert {name: list(value.shape) for name, value in back.items()} == answers["shapes"]
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    again = to_transformers("x", back, config)
    assert again.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(again[name], value), name


def test_names_and_shapes_are_those_of_transformers(state) -> None:
    """Against a CLIPModel of the same configuration, built by transformers alone."""
    config = clip_config("x", model_config(quick_gelu=False), END_OF_TEXT)
    expected = {name: value.shape for name, value in CLIPModel(config).state_dict().items()}
    found = {name: value.shape for name, value in to_transformers("x", state, config).items()}
    assert found == expected


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_the_configuration_there_and_back(tmp_path, act: str) -> None:
    built = save_clip(tmp_path / "clip", hidden_act=act, layer_norm_eps=1e-6)
    end = built.tokenizer.eos_token_id
    written = json.loads(json.dumps(open_clip_model_config(built.model.config, end)))
    read = clip_config("x", written, end)
    keys = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "hidden_act", "layer_norm_eps",
    )  # fmt: skip
    for tower, more in (("vision_config", ("image_size", "patch_size")),
                        ("text_config", ("vocab_size", "max_position_embeddings"))):  # fmt: skip
        before, after = getattr(built.model.config, tower), getattr(read, tower)
        assert {key: getattr(after, key) for key in (*keys, *more)} == {
            key: getattr(before, key) for key in (*keys, *more)
        }
    assert read.projection_dim == built.model.config.projection_dim


def test_towers_with_two_activations_have_no_place_in_open_clip(tmp_path) -> None:
    config = save_clip(tmp_path / "clip").model.config
    config.text_config.hidden_act = "quick_gelu"
    with pytest.raises(UsageError, match="quick_gelu in both towers or in none"):
        open_clip_model_config(config, END_OF_TEXT)


def test_what_the_pictures_go_through(folder) -> None:
    found = load_dual_encoder(folder).preprocessing
    assert (found.height, found.width, found.resize, found.resize_to) == (
        32, 32, "shortest-edge", 32,
    )  # fmt: skip
    assert (found.mean, found.std, found.resample) == (
        (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), "bicubic",
    )  # fmt: skip
    edit(folder, "preprocess_cfg", resize_mode="squash", interpolation="bilinear", mean=0.25)
    found = load_dual_encoder(folder).preprocessing
    assert (found.resize, found.resample, found.mean) == ("exact", "bilinear", (0.25, 0.25, 0.25))
    edit(folder, "preprocess_cfg", resize_mode="longest")
    with pytest.raises(UsageError, match="resize_mode=longest is not supported"):
        load_dual_encoder(folder)


def test_without_preprocess_cfg_it_is_openais(folder) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config["preprocess_cfg"]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert load_dual_encoder(folder).preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize("form", ["bin", "training", "text."])
def test_other_forms_of_the_weights(folder, state, form: str) -> None:
    expected = load_dual_encoder(folder).model.state_dict()
    (folder / WEIGHTS_FILE).unlink()
    if form == "text.":
        visual = ("visual.", "logit_scale")
        saved = {n if n.startswith(visual) else f"text.{n}": v for n, v in state.items()}
        save_file(saved, folder / "open_clip_pytorch_model.safetensors")
    elif form == "training":
        saved = {"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}}
        torch.save(saved, folder / "open_clip_pytorch_model.bin")
    else:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    found = load_dual_encoder(folder).model.state_dict()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_the_bias_of_the_sigmoid_loss_is_kept(folder, state) -> None:
    assert load_dual_encoder(folder).logit_bias is None
    save_file(state | {"logit_bias": torch.tensor([-7.0])}, folder / WEIGHTS_FILE)
    assert load_dual_encoder(folder).logit_bias.item() == -7


def test_a_folder_with_both_layouts_is_read_as_transformers_own(folder) -> None:
    save_clip(folder)
    assert load_dual_encoder(folder).dimension == 24
    # timm's config.json has no model_type and is of no use to transformers
    (folder / "config.json").write_text('{"architecture": "vit_base_patch32_clip_224"}')
    tokenizer().save_pretrained(folder)
    assert load_dual_encoder(folder).dimension == 16


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model_cfg", {"multimodal_cfg": {}}, "a CoCa"),
        ("vision_cfg", {"timm_model_name": "vit_x"}, r"an image tower of timm \(vit_x\)"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "a ResNet as image tower"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "a text tower of its own kind"),
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type='avg'"),
        ("vision_cfg", {"ls_init_value": 0.1}, "vision_cfg.ls_init_value=0.1"),
        ("text_cfg", {"embed_cls": True}, "text_cfg.embed_cls=True"),
        ("text_cfg", {"no_causal_mask": True}, "text_cfg.no_causal_mask=True"),
        ("text_cfg", {"pool_type": "eos", "eos_id": 2}, "eos_id is 2, but .* with 513"),
        ("vision_cfg", {"image_size": [32, 64]}, "is not square"),
        ("vision_cfg", {"act_kwargs": {"x": 1}}, "only eps, and approximate"),
    ],
)
def test_models_that_transformers_lacks_are_refused_by_name(
    folder, section: str, values: dict, message: str
) -> None:
    edit(folder, section, **values)
    with pytest.raises(UsageError, match=message) as caught:
        load_dual_encoder(folder)
    assert str(caught.value).startswith(f"{folder}: ")
    assert "\n" not in str(caught.value)


def break_weights(state: dict, how: str) -> dict:
    if how == "missing":
        return {name: value for name, value in state.items() if name != "ln_final.bias"}
    if how == "more":
        return state | {"visual.attn_pool.query": torch.zeros(2)}
    return state | {"token_embedding.weight": torch.zeros(514, 25)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "its weights have no ln_final.bias"),
        ("more", r"1 tensors that .* the first visual.attn_pool.query"),
        ("shape", "of another shape than open_clip_config.json describes"),
    ],
)
def test_weights_of_another_model(folder, state, how: str, message: str) -> None:
    save_file(break_weights(state, how), folder / WEIGHTS_FILE)
    with pytest.raises(EncoderError, match=message) as caught:
        load_dual_encoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (WEIGHTS_FILE, b"", "cannot be read"),
        (WEIGHTS_FILE, None, "but none of open_clip_model.safetensors"),
        (CONFIG_FILE, b"{", "cannot be read or is not complete"),
        (CONFIG_FILE, b'{"model_cfg": {"embed_dim": 3}}', "vision_cfg or text_cfg"),
        (CONFIG_FILE, None, "no transformers checkpoint"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", b"{}", "tokenizer|loaded"),
    ],
)
def test_broken_files(folder, file: str, content: bytes | None, message: str) -> None:
    path = folder / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises((EncoderError, UsageError), match=message) as caught:
        load_dual_encoder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    """What an attacker puts into a pickled checkpoint."""

    def __reduce__(self):
        return (print, ("boom",))


def test_weights_that_would_run_code_are_refused(folder, capsys) -> None:
    (folder / WEIGHTS_FILE).unlink()
    torch.save({"a": Bomb()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(EncoderError, match="holds more than tensors, or is broken"):
        load_dual_encoder(folder)
    assert "boom" not in capsys.readouterr().out


def test_the_recorded_answers_are_those_of_open_clip(state, answers) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip needs torchvision")
    for activation in ("gelu", "quick_gelu"):
        model = open_clip.CLIP(**model_config(quick_gelu=activation == "quick_gelu")).eval()
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        assert shapes == answers["shapes"]
        model.load_state_dict(state)
        with torch.inference_mode():
            for name, found in (
                ("images", model.encode_image(pixels(), normalize=True)),
                ("texts", model.encode_text(token_ids(), normalize=True)),
            ):
                torch.testing.assert_close(found, torch.tensor(answers[activation][name]), **CLOSE)
