"""To and from the preprocessor_config.json of transformers' image processors."""

from collections.abc import Mapping
from typing import Any, get_args

from PIL import Image

from finetune.errors import EncoderError
from finetune.images.preprocessing import RESAMPLE_NAMES, Preprocessing, Transparency

_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# Our own key, which transformers lets be, and lays on white; with it the fingerprint tells the two
# apart.
TRANSPARENCY_KEY = "transparency"

# What a processor takes where its configuration is silent: resampling, mean and std.
_DEFAULTS = {
    "CLIP": ("bicubic", *_OPENAI),
    "Siglip": ("bicubic", *_HALVES),
    "ViT": ("bilinear", *_HALVES),
}


def preprocessing_from_config(config: Mapping[str, Any]) -> Preprocessing:
    """Read the preprocessing from a preprocessor_config.json (CLIP, SigLIP, SigLIP 2, ViT).

    Also takes a processor_config.json, where the same lies under "image_processor".
    Raises EncoderError that names a setting which we do not reproduce.
    """
    nested = config.get("image_processor")
    config = nested if isinstance(nested, Mapping) else config
    kind = _kind(config)
    for key in ("do_resize", "do_rescale"):
        if config.get(key, True) is False:
            raise _unsupported(key, False)
    factor = config.get("rescale_factor", 1 / 255)
    if abs(factor - 1 / 255) > 1e-9:
        raise _unsupported("rescale_factor", factor)
    resample, mean, std = _DEFAULTS[kind]
    if config.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean = _channels(config, "image_mean", mean)
        std = _channels(config, "image_std", std)
    if config.get("resample") is not None:
        resample = _resample_name(config["resample"])
    crops = bool(config.get("do_center_crop", kind == "CLIP"))
    size = _size(config, kind)
    if "shortest_edge" in size:
        if not crops:
            raise _unsupported("size", f"{size} without do_center_crop")
        edge = size["shortest_edge"]
        crop = _crop_size(config, edge)
        return Preprocessing(
            *crop, "shortest-edge", edge, resample, mean, std, _transparency(config)
        )
    height, width = size["height"], size["width"]
    if crops and _crop_size(config, (height, width)) != (height, width):
        raise _unsupported("crop_size", f"{config['crop_size']} with size {size}")
    return Preprocessing(
        height, width, "exact", min(height, width), resample, mean, std, _transparency(config)
    )


def preprocessor_config(preprocessing: Preprocessing, family: str) -> dict[str, Any]:
    """Return the preprocessor_config.json by which transformers' image processor does the same.

    Args:
        preprocessing: Of the encoder.
        family: Of the encoder ("siglip" gets SigLIP's processor, where its way to resize fits).
    """
    crops = preprocessing.resize == "shortest-edge"
    size = {"height": preprocessing.height, "width": preprocessing.width}
    kind = "Siglip" if family == "siglip" and not crops else "CLIP"
    config: dict[str, Any] = {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.resize_to} if crops else size,
        "resample": int(Image.Resampling[preprocessing.resample.upper()]),
        "do_center_crop": crops,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if crops:
        config["crop_size"] = size
    if preprocessing.transparency != "white":
        config[TRANSPARENCY_KEY] = preprocessing.transparency
    return config


def _kind(config: Mapping[str, Any]) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        # Written before transformers 4.10: of our families, only CLIP is that old.
        name = "CLIPImageProcessor"
    for kind in _DEFAULTS:
        if name in tuple(
            kind + end
            for end in (
                "ImageProcessor",
                "ImageProcessorFast",
                "ImageProcessorPil",
                "FeatureExtractor",
            )
        ):
            return kind
    if str(name).startswith("Siglip2"):
        raise EncoderError(
            f"image processor {name}: SigLIP 2 of variable resolution (NaFlex) is not supported;"
            f" take a checkpoint of fixed resolution, such as google/siglip2-base-patch16-224"
        )
    raise EncoderError(
        f"image processor {name} is not supported; those of CLIP, SigLIP and ViT are"
    )


def _size(config: Mapping[str, Any], kind: str) -> dict[str, int]:
    default: Any = {"shortest_edge": 224} if kind == "CLIP" else 224
    size = config.get("size", default)
    if isinstance(size, int):
        # A bare number is the short side in CLIP, and both sides elsewhere.
        return {"shortest_edge": size} if kind == "CLIP" else {"height": size, "width": size}
    if isinstance(size, Mapping):
        given = {key: int(value) for key, value in size.items() if value is not None}
        if set(given) in ({"shortest_edge"}, {"height", "width"}) and min(given.values()) > 0:
            return given
    raise _unsupported("size", size)


def _crop_size(config: Mapping[str, Any], default: int | tuple[int, int]) -> tuple[int, int]:
    crop = config.get("crop_size", default)
    if isinstance(crop, int):
        return crop, crop
    if isinstance(crop, tuple):
        return crop
    if isinstance(crop, Mapping) and {"height", "width"} <= set(crop):
        return int(crop["height"]), int(crop["width"])
    raise _unsupported("crop_size", crop)


def _channels(
    config: Mapping[str, Any], key: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    values = config.get(key) or default
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise _unsupported(key, values)
    first, second, third = (float(value) for value in values)
    return first, second, third


def _transparency(config: Mapping[str, Any]) -> Transparency:
    value = config.get(TRANSPARENCY_KEY, "white")
    if value not in get_args(Transparency):
        raise _unsupported(TRANSPARENCY_KEY, value)
    word: Transparency = value
    return word


def _resample_name(value: Any) -> str:
    try:
        name = (value if isinstance(value, str) else Image.Resampling(value).name).lower()
    except ValueError:
        raise _unsupported("resample", value) from None
    if name not in RESAMPLE_NAMES:
        raise _unsupported("resample", value)
    return name


def _unsupported(key: str, value: object) -> EncoderError:
    return EncoderError(
        f"image processor: {key}={value} is not supported; take a checkpoint that resizes to one"
        f" size, rescales by 1/255 and normalises three channels"
    )
