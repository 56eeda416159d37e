"""The names of the two towers of a dual encoder."""

from typing import Literal, get_args

TowerName = Literal["image", "text"]
TOWERS: tuple[TowerName, ...] = get_args(TowerName)
