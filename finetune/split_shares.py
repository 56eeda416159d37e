"""How large the splits are that no manifest names."""

import math
from collections.abc import Sequence

from finetune.errors import UsageError

# Of train, val and test, where a manifest names no splits.
DEFAULT_SHARES = (0.8, 0.1, 0.1)
# Of the split train, where there is no split val.
DEFAULT_HOLD_OUT = 0.1


def shares_of(given: Sequence[float], option: str = "--split-shares") -> tuple[float, float, float]:
    """Return shares of train, val and test, of which the last may be left out.

    Raises UsageError where they are no shares.
    """
    shares = (*given, *(0.0,) * (3 - len(given)))
    if not 2 <= len(given) <= 3 or any(not share >= 0 for share in shares):
        raise UsageError(f"{option} {_listed(given)} is not two or three numbers, such as 0.9,0.1")
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-6) or shares[0] == 0:
        raise UsageError(
            f"{option} {_listed(given)}: shares of train, val and test add up to 1, such as 0.9,0.1"
        )
    train, val, test = shares
    return train, val, test


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
