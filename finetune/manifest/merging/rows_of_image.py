"""What several rows say of one image together."""

from collections.abc import Iterable

from finetune.manifest.formats.row import MetadataValue, Row
from finetune.manifest.image_lookup import ImageLookup
from finetune.manifest.problems import Problems
from finetune.manifest.splits import split_of_word


class RowsOfImage:
    """Joins the rows of an image; where they differ, the first counts, and the others are told."""

    def __init__(self, lookup: ImageLookup, problems: Problems) -> None:
        self._lookup = lookup
        self._problems = problems
        self._split_words: dict[str, str | None] = {}

    def of_one_image(self, rows: list[Row]) -> list[Row]:
        """Return the rows without those of another image, the same but for its Unicode form."""
        first = rows[0]
        if all(row.image == first.image for row in rows):
            return rows
        others = {row.image for row in rows if row.image != first.image and not row.image.isascii()}
        for image in sorted(others):
            if first.shard is None and not self._lookup.is_another_file(first.image, image):
                others.remove(image)
        reason = f"its name differs from that of {first.image} in its Unicode form alone; rename it"
        for row in rows:
            if row.image in others:
                self._problems.add("duplicate id", row.where, f"{row.image}: {reason}")
        return [row for row in rows if row.image not in others]

    @property
    def splits_are_given(self) -> bool:
        """Whether any row names a split."""
        return any(self._split_words.values())

    def split(self, rows: Iterable[Row], id: str) -> str | None:
        """Return the split that is given; None where none is."""
        split: str | None = None
        for row in rows:
            if row.split is None:
                continue
            if row.split not in self._split_words:
                self._split_words[row.split] = split_of_word(row.split)
            meant = self._split_words[row.split]
            if meant is None:
                reason = f"{id}: the split {row.split!r} is none of train, val and test"
                self._problems.add("unknown split", row.where, reason)
            elif split is None:
                split = meant
            elif split != meant:
                reason = f"{id}: in {split} before, in {meant} here; it stays in {split}"
                self._problems.add("two splits", row.where, reason)
        return split

    def metadata(self, rows: Iterable[Row], id: str) -> dict[str, MetadataValue] | None:
        """Return the metadata of all rows; None for none."""
        merged: dict[str, MetadataValue] = {}
        different: dict[str, str] = {}
        for row in rows:
            for name, value in (row.metadata or {}).items():
                kept = merged.setdefault(name, value)
                if kept != value and name not in different:
                    different[name] = row.where
        for name, where in different.items():
            reason = f"{id}: {name} differs from that of its first row, which is kept"
            self._problems.note("different values", where, reason)
        return merged or None
