"""The numbers that a setting may have."""

import math
from dataclasses import dataclass

from finetune.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers between two bounds, each a part of the range or just outside of it.

    Attributes:
        least: The smallest number.
        above: Every number is larger than this one.
        most: The largest number.
        below: Every number is smaller than this one.
        or_zero: Whether 0 is right too, wherever the bounds are.
        words: How an error tells the range; by default its bounds.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    or_zero: bool = False
    words: str = ""

    def __contains__(self, value: float) -> bool:
        """Return whether the number is finite and within the bounds."""
        return (self.or_zero and value == 0) or (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the range in words, as they follow "must be"."""
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        found = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        return self.words or " and ".join(found) + (", or 0" if self.or_zero else "")

    def check(self, what: str, value: float) -> None:
        """Raise UsageError for a number outside; `what` names it: "--epochs"."""
        if value not in self:
            raise UsageError(f"{what} must be {self}, not {value}")
