"""Encoders of the hub that are known to fit: which there are, and what they are good for."""

import re
from dataclasses import dataclass

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The image tower's shape, by which its speed can be told without its weights.

    Attributes:
        layers, width, tokens: Of the transformer; a token a patch, and perhaps one more.
    """

    layers: int
    width: int
    tokens: int


@dataclass(frozen=True, slots=True)
class KnownEncoder:
    """An encoder of the hub in the layout of transformers.js.

    Attributes:
        id: On the hub.
        original: The checkpoint of the same weights, whose own folder has no ONNX towers.
        license: Of the weights, as their makers say.
        megabytes: Of both towers in float32: four bytes a parameter.
        dimension: Values in an embedding.
        languages: For people.
        shape: Of the image tower.
    """

    id: str
    original: str
    license: str
    megabytes: int
    dimension: int
    languages: str
    shape: VisionShape


KNOWN = (
    KnownEncoder(
        "Xenova/clip-vit-base-patch32", "openai/clip-vit-base-patch32", "MIT",
        605, 512, "English", VisionShape(12, 768, 50),
    ),
    KnownEncoder(
        "Xenova/clip-vit-base-patch16", "openai/clip-vit-base-patch16", "MIT",
        599, 512, "English", VisionShape(12, 768, 197),
    ),
    KnownEncoder(
        "Xenova/clip-vit-large-patch14", "openai/clip-vit-large-patch14", "MIT",
        1_711, 768, "English", VisionShape(24, 1024, 257),
    ),
    KnownEncoder(
        "Xenova/siglip-base-patch16-224", "google/siglip-base-patch16-224", "Apache-2.0",
        813, 768, "English", VisionShape(12, 768, 196),
    ),
    KnownEncoder(
        "onnx-community/siglip2-base-patch16-224-ONNX", "google/siglip2-base-patch16-224",
        "Apache-2.0", 1_501, 768, "many", VisionShape(12, 768, 196),
    ),
)  # fmt: skip
DEFAULT = KNOWN[0]


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form of a model's id on the hub, "owner/name"."""
    return _HUB_ID.fullmatch(name) is not None


def known_encoder(name: str) -> KnownEncoder | None:
    """Return the encoder of this id, or of its original's; None for one that is not known."""
    return next((each for each in KNOWN if name in (each.id, each.original)), None)
