"""The learning rate as a pure function of the step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from finetune.errors import UsageError

_ALL_HAVE = ("name", "total", "warmup")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a share of its top, step by step.

    Attributes:
        name: One of SCHEDULES.
        total: Steps in all.
        warmup: Steps over which the rate rises from 1/warmup (the first step already learns
            something).
        cycles: An option of some schedules (`ScheduleKind.options`).
    """

    name: str
    total: int
    warmup: int = 0
    cycles: int = 1

    def factor(self, step: int) -> float:
        """Return the factor of step `step` (0-based), in 0..1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.name].share(self, step - self.warmup)

    def progress(self, after_warmup: int) -> float:
        """Return the share of the steps after warm-up that are done, in 0..1."""
        return after_warmup / max(self.total - self.warmup, 1)


def cosine(schedule: Schedule, after_warmup: int) -> float:
    """Fall from 1 to 0 along half a cosine (arXiv:1608.03983, equation 5)."""
    return 0.5 * (1 + math.cos(math.pi * schedule.progress(after_warmup)))


def cosine_restarts(schedule: Schedule, after_warmup: int) -> float:
    """Fall `cycles` times from 1 to 0 along half a cosine, each as long (arXiv:1608.03983)."""
    position = schedule.cycles * schedule.progress(after_warmup)
    return 0.5 * (1 + math.cos(math.pi * (position % 1.0)))


def linear(schedule: Schedule, after_warmup: int) -> float:
    """Fall from 1 to 0 along a line."""
    return 1 - schedule.progress(after_warmup)


def constant(schedule: Schedule, after_warmup: int) -> float:
    """Return 1 throughout."""
    return 1.0


def inverse_sqrt(schedule: Schedule, after_warmup: int) -> float:
    """Return 1 / sqrt(step / warmup), as in arXiv:1706.03762, equation 3.

    Without warm-up it is 1 / sqrt(step).

    Steps are counted from 1 here, so that the first one after warm-up is just below the top.
    """
    warmup = max(schedule.warmup, 1)
    return math.sqrt(warmup / (warmup + after_warmup))


@dataclass(frozen=True, slots=True)
class ScheduleKind:
    """How the learning rate goes on after warm-up.

    Attributes:
        share: Of the top rate, so many steps after warm-up.
        options: Fields of `Schedule` that it takes, each a setting of the same name.
    """

    share: Callable[[Schedule, int], float]
    options: tuple[str, ...] = ()


SCHEDULES: Mapping[str, ScheduleKind] = {
    "cosine": ScheduleKind(cosine),
    "linear": ScheduleKind(linear),
    "cosine-restarts": ScheduleKind(cosine_restarts, ("cycles",)),
    "constant": ScheduleKind(constant),
    "inverse-sqrt": ScheduleKind(inverse_sqrt),
}
# By option, the value that is without effect: what every other schedule has.
SCHEDULE_OPTIONS: Mapping[str, Any] = {
    each.name: each.default for each in fields(Schedule) if each.name not in _ALL_HAVE
}


def schedules_with(option: str) -> str:
    """Name the schedules that take the option, for people."""
    return " and ".join(name for name, kind in SCHEDULES.items() if option in kind.options)


def check_schedule(name: str, options: Mapping[str, float]) -> None:
    """Raise UsageError for an option of another schedule."""
    for option, value in options.items():
        if option not in SCHEDULES[name].options and value != SCHEDULE_OPTIONS[option]:
            flag = "--" + option.replace("_", "-")
            raise UsageError(
                f"{flag} {value} is for --schedule {schedules_with(option)};"
                f" leave it out with --schedule {name}"
            )
