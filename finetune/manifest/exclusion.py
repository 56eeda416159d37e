"""What is left out of a manifest because the user says so: images by patterns of their paths."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from finetune.errors import UsageError
from finetune.manifest.formats.folder import ImageFolder
from finetune.manifest.formats.row import ManifestSource, Row
from finetune.manifest.formats.wrapped import WrappedSource
from finetune.manifest.problems import LEFT_OUT, Problems
from finetune.text.composed import composed

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


@dataclass(frozen=True)
class Exclusion:
    """Patterns, as `.gitignore` has them, of what is left out.

    Attributes:
        patterns: `*.svg` is every name that ends so, `drafts/` every folder of that name with all
            in it, `/2019/raw` that one alone, `**` any number of folders; `!keep.svg` takes back
            what a pattern before it leaves out. Of a table they are held against the images as it
            names them.
    """

    patterns: tuple[str, ...]
    _spec: "GitIgnoreSpec" = field(repr=False, compare=False)

    @classmethod
    def of(cls, patterns: Sequence[str]) -> "Exclusion | None":
        """Return what the patterns leave out; None for no patterns.

        Raises UsageError for one that is empty or cannot be read.
        """
        if not patterns:
            return None
        from pathspec import GitIgnoreSpec  # only who leaves something out waits for it

        for pattern in patterns:
            if not pattern.strip():
                raise UsageError("--exclude is empty; --no-exclude leaves nothing out")
        try:
            return cls(tuple(patterns), GitIgnoreSpec.from_lines(map(composed, patterns)))
        except ValueError as error:
            raise UsageError(f"--exclude: {error}; patterns are those of .gitignore") from error

    def __call__(self, path: str) -> bool:
        """Return whether an image, or with a `/` at its end a folder, is left out."""
        return self._spec.match_file(composed(path))

    def to(self, source: ManifestSource) -> ManifestSource:
        """Return the source without what is left out, of which a note is made each."""
        if isinstance(source, ImageFolder):
            return replace(source, leaves_out=self)
        return _WithoutImages(source, self)


@dataclass(frozen=True)
class _WithoutImages(WrappedSource):
    """A table without the rows of images that are left out."""

    leaves_out: Exclusion

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows that stay."""
        for row in self.source.rows(problems):
            if row.image and self.leaves_out(row.image):
                problems.note(LEFT_OUT, row.where, f"{row.image}: left out by --exclude")
            else:
                yield row


def shown_patterns(patterns: Iterable[str]) -> str:
    """Return the patterns as they are typed: `--exclude '*.svg' --exclude drafts/`."""
    return " ".join(f"--exclude {shlex.quote(pattern)}" for pattern in patterns)
