"""OpenCLIP's names, shapes and settings, to and from those of transformers' CLIPModel.

OpenCLIP (github.com/mlfoundations/open_clip, `model.py` and `transformer.py` of version 3.3) keeps
OpenAI's original layout: queries, keys and values in one matrix, projections that multiply from the
right, and positional embeddings as bare parameters. Both keep the logarithm of the logit scale.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CLIPConfig

from finetune.errors import EncoderError, UsageError

Tensors = dict[str, torch.Tensor]

# transformers' name: OpenCLIP's name.
PLAIN = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
STACKS = {
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
}
# Within a layer; each has a weight and a bias.
LAYER = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

# OpenCLIP's dataclasses CLIPVisionCfg and CLIPTextCfg, as far as transformers' CLIP can follow.
VISION_DEFAULTS: dict[str, Any] = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16,
    "image_size": 224, "norm_kwargs": None, "act_kwargs": None,
}  # fmt: skip
TEXT_DEFAULTS: dict[str, Any] = {
    "layers": 12, "width": 512, "heads": 8, "mlp_ratio": 4.0, "context_length": 77,
    "vocab_size": 49408, "pool_type": "argmax", "eos_id": 2, "norm_kwargs": None,
    "act_kwargs": None,
}  # fmt: skip
# Settings that change nothing in an embedding outside training, or say where the tokenizer is.
WITHOUT_EFFECT = frozenset(
    {
        "patch_dropout", "output_tokens", "final_ln_after_pool", "attn_pooler_queries",
        "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias",
        "timm_drop", "timm_drop_path", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
        "hf_tokenizer_name", "pad_id",
    }
)  # fmt: skip
# Settings with the one value that transformers' CLIP has; any other is refused by name.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "pos_embed_type": ("learnable",),
    "block_type": (None, "default"),
    "proj_type": ("linear",),
    "pool_type": ("tok",),
    "tokenizer_kwargs": (None, {}),
}
DEFAULT_EPS = 1e-5


def clip_config(name: str, model: Mapping[str, Any], end_of_text: int) -> CLIPConfig:
    """Return `model_cfg` of open_clip_config.json as a CLIPConfig.

    Args:
        name: Of the checkpoint, for errors.
        model: The value of "model_cfg".
        end_of_text: The tokenizer's id of it, at which the text tower is read.

    Raises UsageError that names the kind of tower or the setting which transformers' CLIP lacks.
    """
    vision, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
    _refuse_other_kinds(name, model, vision, text)
    _refuse_settings(name, "vision_cfg", vision, VISION_DEFAULTS)
    _refuse_settings(name, "text_cfg", text, TEXT_DEFAULTS)
    vision, text = VISION_DEFAULTS | vision, TEXT_DEFAULTS | text
    if text["pool_type"] == "eos" and text["eos_id"] != end_of_text:
        raise UsageError(
            f"{name}: text_cfg.eos_id is {text['eos_id']}, but its tokenizer ends texts with"
            f" {end_of_text}; put the tokenizer that the model was trained with into its folder"
        )
    quick = bool(model.get("quick_gelu", False))
    dimension = int(model["embed_dim"])
    vision_config = _tower_config(name, vision, dimension, quick) | {
        "num_attention_heads": vision["width"] // vision["head_width"],
        "image_size": _one_side(name, "image_size", vision["image_size"]),
        "patch_size": _one_side(name, "patch_size", vision["patch_size"]),
    }
    text_config = _tower_config(name, text, dimension, quick) | {
        "num_attention_heads": text["heads"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["context_length"],
        "eos_token_id": end_of_text,
    }
    return CLIPConfig(
        vision_config=vision_config, text_config=text_config, projection_dim=dimension
    )


def open_clip_model_config(config: CLIPConfig, end_of_text: int) -> dict[str, Any]:
    """Return a CLIPConfig as `model_cfg` of open_clip_config.json.

    Raises UsageError where OpenCLIP has no such model.
    """
    vision, text = config.vision_config, config.text_config
    quick = [tower.hidden_act == "quick_gelu" for tower in (vision, text)]
    if quick[0] != quick[1]:
        raise UsageError(
            f"the towers' activations are {vision.hidden_act} and {text.hidden_act}, but OpenCLIP"
            f" has quick_gelu in both towers or in none"
        )
    # The end of the text has the highest id in CLIP's vocabulary, and OpenCLIP then needs no more.
    highest = end_of_text == text.vocab_size - 1
    pooling = {} if highest else {"pool_type": "eos", "eos_id": end_of_text}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": quick[0],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_open_clip_tower(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            **_open_clip_tower(text),
            **pooling,
        },
    }


def to_transformers(name: str, state: Mapping[str, torch.Tensor], config: CLIPConfig) -> Tensors:
    """Return OpenCLIP's tensors under transformers' names and in its shapes, values untouched.

    Args:
        name: Of the checkpoint, for errors.
        state: OpenCLIP's state dict; `text.` before the text tower's names is taken away. Its
            logit_bias, which transformers' CLIP has no place for, is left out.
        config: Of the model, from `clip_config`.

    Raises EncoderError where a tensor is missing, or one is left that has no place.
    """
    left = {key.removeprefix("text."): value for key, value in state.items()}
    left.pop("attn_mask", None)
    left.pop("logit_bias", None)

    def take(key: str) -> torch.Tensor:
        if key not in left:
            raise EncoderError(
                f"{name}: its weights have no {key}; they are of another model than"
                f" open_clip_config.json describes"
            )
        return left.pop(key)

    found = {ours: take(theirs) for ours, theirs in PLAIN.items()}
    found["logit_scale"] = found["logit_scale"].reshape(())
    for ours, theirs in TRANSPOSED.items():
        found[ours] = take(theirs).T.contiguous()
    for layer, their_layer in _layers(config):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                found[f"{layer}.{ours}.{kind}"] = take(f"{their_layer}.{theirs}.{kind}")
        for kind in ("weight", "bias"):
            parts = take(f"{their_layer}.attn.in_proj_{kind}").chunk(3)
            for ours, part in zip(QUERY_KEY_VALUE, parts, strict=True):
                found[f"{layer}.{ours}.{kind}"] = part.contiguous()
    if left:
        raise EncoderError(
            f"{name}: its weights have {len(left)} tensors that open_clip_config.json does not"
            f" describe, the first {min(left)}"
        )
    return found


def to_open_clip(state: Mapping[str, torch.Tensor], config: CLIPConfig) -> Tensors:
    """Return the reverse of `to_transformers`."""
    found = {theirs: state[ours] for ours, theirs in PLAIN.items()}
    for ours, theirs in TRANSPOSED.items():
        found[theirs] = state[ours].T.contiguous()
    for layer, their_layer in _layers(config):
        for kind in ("weight", "bias"):
            for ours, theirs in LAYER.items():
                found[f"{their_layer}.{theirs}.{kind}"] = state[f"{layer}.{ours}.{kind}"]
            parts = [state[f"{layer}.{ours}.{kind}"] for ours in QUERY_KEY_VALUE]
            found[f"{their_layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def _layers(config: CLIPConfig) -> list[tuple[str, str]]:
    """Return each layer's prefix in transformers and in OpenCLIP."""
    counts = (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers)
    return [
        (f"{ours}.{index}", f"{theirs}.{index}")
        for (ours, theirs), count in zip(STACKS.items(), counts, strict=True)
        for index in range(count)
    ]


def _refuse_other_kinds(
    name: str, model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> None:
    kind = None
    if "multimodal_cfg" in model:
        kind = "a CoCa, which also writes captions"
    elif vision.get("timm_model_name"):
        kind = f"an image tower of timm ({vision['timm_model_name']})"
    elif isinstance(vision.get("layers"), (list, tuple)):
        kind = "a ResNet as image tower"
    elif text.get("hf_model_name"):
        kind = f"a text tower of its own kind ({text['hf_model_name']})"
    if kind is not None:
        raise UsageError(
            f"{name}: is an OpenCLIP checkpoint with {kind}, which is not supported; take one with"
            f" a ViT and the standard text transformer, such as ViT-B-32, ViT-B-16 or ViT-L-14"
        )


def _refuse_settings(
    name: str, section: str, settings: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    for key, value in settings.items():
        if key == "pool_type" and section == "text_cfg":
            allowed = value in ("argmax", "eos")
        elif key in REQUIRED:
            allowed = value in REQUIRED[key]
        else:
            allowed = key in known or key in WITHOUT_EFFECT or value in (None, False)
        if not allowed:
            raise UsageError(
                f"{name}: is an OpenCLIP checkpoint with {section}.{key}={value!r}, which is not"
                f" supported; take one with a plain ViT and the standard text transformer"
            )


def _tower_config(
    name: str, tower: Mapping[str, Any], dimension: int, quick: bool
) -> dict[str, Any]:
    norm, act = dict(tower["norm_kwargs"] or {}), dict(tower["act_kwargs"] or {})
    eps = norm.pop("eps", DEFAULT_EPS)
    tanh = act.pop("approximate", "none") == "tanh"
    if norm or act or (quick and tanh):
        raise UsageError(
            f"{name}: norm_kwargs={tower['norm_kwargs']} and act_kwargs={tower['act_kwargs']} are"
            f" not supported; only eps, and approximate without quick_gelu, are"
        )
    return {
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": tower["layers"],
        "hidden_act": "quick_gelu" if quick else "gelu_pytorch_tanh" if tanh else "gelu",
        "layer_norm_eps": eps,
        "projection_dim": dimension,
    }


def _open_clip_tower(tower: Any) -> dict[str, Any]:
    acts: dict[str, dict[str, Any]] = {
        "quick_gelu": {},
        "gelu": {},
        "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}},
    }
    if tower.hidden_act not in acts:
        raise UsageError(f"OpenCLIP has no activation {tower.hidden_act}; it has {', '.join(acts)}")
    norm = {}
    if tower.layer_norm_eps != DEFAULT_EPS:
        norm = {"norm_kwargs": {"eps": tower.layer_norm_eps}}
    return {
        "width": tower.hidden_size,
        "layers": tower.num_hidden_layers,
        "mlp_ratio": tower.intermediate_size / tower.hidden_size,
        **acts[tower.hidden_act],
        **norm,
    }


def _one_side(name: str, key: str, value: Any) -> int:
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if sides[0] != sides[-1]:
        raise UsageError(f"{name}: vision_cfg.{key}={value} is not square, which is not supported")
    return int(sides[0])
