"""Which figure of an evaluation says what is best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from finetune.errors import UsageError
from finetune.history import EVALUATION_COLUMNS, VALIDATION_LOSS, ZERO_SHOT_COLUMNS

# What people write without a direction is meant as text to image: that is what a search does.
DEFAULT_DIRECTION = "t2i"


@dataclass(frozen=True, slots=True)
class Selection:
    """A column of evaluations in history.csv.

    Attributes:
        metric: Its name.
    """

    metric: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """From what a user writes; "mrr@10" is "t2i_mrr@10", and "loss" is "val_loss".

        Raises UsageError for a figure that evaluations do not have.
        """
        for metric in (name, f"{DEFAULT_DIRECTION}_{name}", f"val_{name}"):
            if metric in EVALUATION_COLUMNS:
                return cls(metric)
        raise UsageError(
            f"--metric {name} is not measured; give one of {', '.join(EVALUATION_COLUMNS)}"
        )

    @property
    def is_zero_shot(self) -> bool:
        """Whether the images' classes are needed."""
        return self.metric in ZERO_SHOT_COLUMNS

    @property
    def is_lower_better(self) -> bool:
        """Whether it is a loss or a rank."""
        return self.metric == VALIDATION_LOSS or self.metric.endswith("_rank")

    def score(self, values: Mapping[str, float]) -> float:
        """The figure of an evaluation's row such that more is better."""
        value = values[self.metric]
        return -value if self.is_lower_better else value
