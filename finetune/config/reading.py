"""How a run's manifests are read. Imports without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.settings import TrainConfig
from finetune.frames import ManifestPath
from finetune.split_shares import shares_of


@dataclass(frozen=True, slots=True)
class Reading:
    """Which manifests a run reads, and how.

    Attributes:
        manifests: At least one.
        images: A folder where relative image paths are looked for too.
        strict: Whether any problem of a manifest is an error.
        split_shares: Of train, val and test, where a manifest names no splits.
        hold_out: Share of train that becomes val where there is none; 0 leaves it so.
        image_column, caption_columns, id_column: Of tables; None and empty go by their names.
    """

    manifests: Sequence[ManifestPath]
    images: Path | None
    strict: bool
    split_shares: tuple[float, float, float]
    hold_out: float
    image_column: str | None
    caption_columns: tuple[str, ...]
    id_column: str | None

    @classmethod
    def of(cls, config: TrainConfig) -> "Reading":
        """Make it from a run's settings. Raises UsageError where the shares are none."""
        return cls(
            config.manifests,
            None if config.images is None else Path(config.images),
            config.strict,
            shares_of(config.split_shares),
            config.hold_out,
            config.image_column,
            config.caption_column,
            config.id_column,
        )
