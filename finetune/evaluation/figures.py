"""The figures of an evaluation: their names and directions."""

from collections.abc import Mapping


def is_evaluation(row: Mapping[str, float]) -> bool:
    """Whether a row is an evaluation's, not a step's."""
    return "loss" not in row
