"""Fine-tune CLIP-like dual encoders on one's own captioned images, and export them.

`finetune.manifest`, `finetune.images` and `finetune.metrics` import without torch.

>>> from finetune import TrainConfig, train
>>> result = train(TrainConfig(manifest="photos.csv", model="tiny", out="encoder"))
"""

import importlib
from typing import TYPE_CHECKING, Any

from finetune.telemetry import silence

silence()

if TYPE_CHECKING:
    from finetune.config.settings import TrainConfig
    from finetune.training.train import Result, train

__all__ = ["Result", "TrainConfig", "train"]

_HOMES = {
    "Result": "finetune.training.train",
    "TrainConfig": "finetune.config.settings",
    "train": "finetune.training.train",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that reading a manifest needs no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")
