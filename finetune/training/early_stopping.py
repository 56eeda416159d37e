"""When to stop, and which weights were best."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(slots=True)
class EarlyStopping:
    """Watches a metric of which more is better.

    Attributes:
        patience: Evaluations in a row without a gain after which to stop; 0 never stops.
        min_delta: A gain is more than this above the value of the last gain. Gains decide only
            when to stop; the best weights are those of the highest value, whatever `min_delta`.
        best, best_step: The highest value and its step (the first of equals).
        gained_at: The value of the last gain.
        without_gain: Evaluations since.
    """

    patience: int = 0
    min_delta: float = 0.0
    best: float = -math.inf
    best_step: int = -1
    gained_at: float = -math.inf
    without_gain: int = 0

    def update(self, step: int, value: float) -> bool:
        """Take in an evaluation; True where it is the best so far."""
        if value > self.gained_at + self.min_delta:
            self.gained_at = value
            self.without_gain = 0
        else:
            self.without_gain += 1
        if value > self.best:
            self.best, self.best_step = value, step
            return True
        return False

    @property
    def stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.without_gain

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make it as it was when `state_dict` was called."""
        return cls(**state)
