"""Secrets stay out of what is printed: tokens of the environment, passwords in addresses."""

import os
import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

from finetune.errors import UsageError

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# By tracker (`finetune.trackers`), the variables that hold a secret for it.
TRACKER_SECRETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tensorboard": (),
        "wandb": ("WANDB_API_KEY",),
        "mlflow": ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        "carbon": (),
    }
)
# Variables that hold a secret for us or for a library that we call.
SECRET_VARIABLES = (
    "VESPA_CLOUD_SECRET_TOKEN",
    "VESPA_TEAM_API_KEY",
    *HUB_TOKENS,
    *(name for names in TRACKER_SECRETS.values() for name in names),
)
MASK = "***"
# A shorter one would be found in any sentence; no real secret is so short.
_SHORTEST = 6

_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"<>]*@")
_IN_HEADER = re.compile(r"(\bBearer|(?:['\"]|uthorization\W{1,4})Basic)\s+(?:[^\s'\"\\]|\\.)+")


def masked(text: str) -> str:
    """Return `text` without known secrets and those of Authorization headers and addresses."""
    for value in _known():
        text = text.replace(value, MASK)
    text = _IN_ADDRESS.sub(f"{MASK}@", text)
    return _IN_HEADER.sub(rf"\1 {MASK}", text)


def has_control_characters(text: str) -> bool:
    """Return whether it has a character that no header may hold.

    A line end that was copied along is one.
    """
    return any(unicodedata.category(character) == "Cc" for character in text)


def check_token(variable: str) -> None:
    """Raise UsageError, without the value, where a variable's token is none that can be sent.

    White space at its ends is no fault: the libraries that send it cut that off.
    """
    value = os.environ.get(variable, "").strip()
    if has_control_characters(value) or not value.isascii():
        raise UsageError(
            f"{variable} holds a character that no header can (a line end that was copied along,"
            f" perhaps); set the token alone"
        )


def _known() -> list[str]:
    """Return the secrets of the environment, longest first.

    Their odd characters are given as python shows them, too.
    """
    values = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    values |= {value.strip() for value in values}
    values |= {repr(value)[1:-1] for value in values}
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)
