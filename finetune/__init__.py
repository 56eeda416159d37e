"""Fine-tune CLIP-like dual encoders on one's own captioned images, and export them.

`finetune.manifest`, `finetune.images` and `finetune.metrics` import without torch.

>>> from finetune import TrainConfig, train
>>> result = train(TrainConfig(manifest="photos.csv", model="tiny", out="encoder"))
"""

from typing import TYPE_CHECKING

from finetune.public_names import lister, loader
from finetune.telemetry import silence

silence()

if TYPE_CHECKING:
    from finetune.config.settings import TrainConfig
    from finetune.training.train import Result, train

__all__ = ["Result", "TrainConfig", "train"]

__getattr__ = loader(
    __name__,
    {
        "Result": "finetune.training.train",
        "TrainConfig": "finetune.config.settings",
        "train": "finetune.training.train",
    },
)
__dir__ = lister(__all__)
