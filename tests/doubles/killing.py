"""A process that is killed at a step, without the process: what `Killed` passes, kill -9 leaves."""

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """In place of kill -9: nothing of ours catches it."""


def killer(steps: int) -> Callable[[Any], Any]:
    """Return what wraps actions, so that `steps` of all of them are done and the next one kills."""
    left = steps

    def killed_after(action: Any) -> Any:
        def act(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return action(*arguments, **options)

        return act

    return killed_after
