"""A manifest whose rows are read through something else."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.manifest.formats.row import ManifestSource, Row
from finetune.manifest.problems import Problems


@dataclass(frozen=True)
class WrappedSource:
    """All of `source`; what does something with its rows overrides `rows`."""

    source: ManifestSource

    @property
    def format(self) -> str:
        """Its format."""
        return self.source.format

    @property
    def root(self) -> Path:
        """Its root."""
        return self.source.root

    @property
    def captioned(self) -> bool:
        """Whether it has captions."""
        return self.source.captioned

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Its suffixes."""
        return self.source.suffixes

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read its rows."""
        return self.source.rows(problems)
