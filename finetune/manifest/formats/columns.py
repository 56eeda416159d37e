"""The columns of a table: which holds what, as its names say, or as the user does."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ManifestError
from finetune.manifest.formats.row import (
    IMAGE_SUFFIXES,
    MetadataValue,
    Row,
    caption_values,
    embedding_value,
    metadata_value,
    text_of,
)
from finetune.manifest.problems import Problems

# The kind of note about which column is taken for what.
COLUMNS = "columns"

IMAGE_NAMES = ("image", "file_name", "filepath")
# Of tables that name theirs otherwise: taken where none of the known ones is there, and said.
GUESSED_IMAGES = ("filename", "path", "file", "url")
GUESSED_CAPTIONS = ("title", "description", "alt_text")
# The row numbers that pandas writes where it is not told index=False.
_ROW_NUMBERS = re.compile(r"unnamed: \d+|__index_level_\d+__|column 1", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """What the user says of a table's columns, ignoring case.

    Attributes:
        image, id: None goes by the names.
        captions: Empty goes by the names.
        guesses: Whether names that only may mean an image or a caption are taken for it.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    id: str | None = None
    guesses: bool = True


@dataclass(frozen=True, slots=True)
class ManifestColumns:
    """Which column holds what, by the names that the known formats use, ignoring case.

    Attributes:
        image: "image", "file_name" (imagefolder) or "filepath" (OpenCLIP).
        captions: "caption", "captions", "text"; "title" beside "filepath".
        id, split, embedding: Columns of that name.
        metadata: All others.
        image_is_id: There are an id and captions and no image, as in ImageCLEF's newer files:
            the image's name is the id, mostly without its suffix.
        known: All but the metadata.
        guessed: What was taken by GUESSED_IMAGES and GUESSED_CAPTIONS.
        notes: Sentences about what was guessed, is left out or is missing.
    """

    image: str | None
    captions: tuple[str, ...]
    id: str | None
    split: str | None
    embedding: str | None
    metadata: tuple[str, ...]
    image_is_id: bool = False
    known: frozenset[str | None] = frozenset()
    guessed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, names: Iterable[str], given: ColumnNames | None = None, *, has_vectors: bool = False
    ) -> "ManifestColumns":
        """Give each column its meaning; any role may come out empty (see `check`).

        Args:
            names: Of the columns.
            given: What the user says of them.
            has_vectors: Whether ready-made vectors lie beside the table: then neither image nor
                captions are needed, and none are guessed.

        Raises ManifestError where the user names a column that is not there.
        """
        given = given or ColumnNames()
        names = list(names)
        by_role = {name.strip().lower(): name for name in reversed(names)}

        def named(option: str, name: str) -> str:
            found = by_role.get(name.strip().lower())
            if found is None:
                raise ManifestError(
                    f"{option} {name}: there is no such column; there are {', '.join(names)}"
                )
            return found

        def first(wanted: Iterable[str]) -> str | None:
            return next((by_role[name] for name in wanted if name in by_role), None)

        id, split, embedding = (by_role.get(name) for name in ("id", "split", "embedding"))
        if given.id is not None:
            id = named("--id-column", given.id)
        guesses = given.guesses and not has_vectors and embedding is None
        guessed: list[str] = []
        image = first(IMAGE_NAMES)
        if given.image is not None:
            image = named("--image-column", given.image)
        elif image is None and guesses and (image := first(GUESSED_IMAGES)) is not None:
            guessed.append(image)
        captions = tuple(named("--caption-column", name) for name in given.captions)
        captions = captions or _captions(by_role, image)
        if not captions and guesses:
            captions = tuple(by_role[name] for name in GUESSED_CAPTIONS if name in by_role)
            guessed += captions
        image_is_id = image is None and id is not None and embedding is None and bool(captions)
        numbers = names[0] if names and _ROW_NUMBERS.fullmatch(names[0].strip()) else None
        if numbers in (image, id, *captions):
            numbers = None
        known = frozenset({image, *captions, id, split, embedding, numbers} - {None})
        metadata = tuple(name for name in names if name not in known)
        notes = _notes(image, captions, guessed, numbers)
        return cls(
            image, captions, id, split, embedding, metadata, image_is_id, known, tuple(guessed),
            notes,
        )  # fmt: skip

    @property
    def recognised(self) -> int:
        """How many columns have a known meaning that only manifests have."""
        found = (self.image is not None) + len(self.captions) + (self.embedding is not None)
        return found - len(self.guessed)

    @property
    def is_table(self) -> bool:
        """Whether the names are those of a manifest: known ones, or an image's at least."""
        return bool(self.recognised) or self.image is not None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What is tried behind an image's name."""
        return ("", *IMAGE_SUFFIXES) if self.image_is_id else ("",)

    def check(self, path: Path, names: Iterable[str], has_vectors: bool) -> None:
        """Raise ManifestError where no column tells the images.

        Captions may be missing; so may the image beside an id where vectors are ready-made.
        """
        vectors = has_vectors or self.embedding is not None
        if self.image is None and not self.image_is_id and not (vectors and self.id is not None):
            raise ManifestError(
                f'{path}: no column "image" (it has: {", ".join(names)}); name the column with the'
                f" paths with --image-column"
            )

    def tell(self, problems: Problems, source: str, *, has_vectors: bool = False) -> None:
        """Note what was guessed, is left out or is missing."""
        for note in self.notes:
            problems.note(COLUMNS, source, note)
        if not self.captions and self.embedding is None and not has_vectors:
            listed = ", ".join(self.metadata) or "no other column"
            problems.note(
                COLUMNS,
                source,
                f"no column holds captions (others: {listed}); --caption-column names one",
            )

    def row(self, values: Mapping[str, Any], number: int, source: str, line: int) -> Row:
        """Return a row of a mapping from column to value.

        Raises:
            ValueError: a value has no meaning in its column.
        """
        image = text_of(values.get(self.image)) if self.image is not None else ""
        captions: tuple[str, ...] = ()
        for name in self.captions:
            captions += caption_values(values.get(name), lists=name.strip().lower() == "captions")
        id = text_of(values.get(self.id)) or None if self.id is not None else None
        if self.image_is_id and id is not None:
            image, id = id, None
        known = self.known
        metadata: dict[str, MetadataValue] = {
            name: kept
            for name, value in values.items()
            if name not in known and (kept := metadata_value(value)) is not None
        }
        return Row(
            number,
            source,
            line,
            image,
            captions,
            id,
            text_of(values.get(self.split)) or None if self.split is not None else None,
            metadata or None,
            embedding_value(values.get(self.embedding)) if self.embedding is not None else None,
        )


def column_notes(problems: Problems) -> list[str]:
    """Return the sentences about columns, each once, that `ManifestColumns.tell` noted."""
    told = (each.reason for each in problems.examples if each.kind == COLUMNS)
    return list(dict.fromkeys(told))


def _captions(by_role: Mapping[str, str], image: str | None) -> tuple[str, ...]:
    names = ["caption", "captions"]
    if not any(name in by_role for name in names):
        names = ["text"]
        if image is not None and image == by_role.get("filepath") and "title" in by_role:
            names = ["title"]
    return tuple(by_role[name] for name in names if name in by_role)


def _notes(
    image: str | None, captions: tuple[str, ...], guessed: list[str], numbers: str | None
) -> tuple[str, ...]:
    notes = []
    if image in guessed:
        notes.append(
            f"the column {image} is taken for the images' paths; --image-column names another"
        )
    if captions and captions[0] in guessed:
        listed = " and ".join(captions)
        notes.append(f"captions are taken from {listed}; --caption-column names others")
    if numbers is not None:
        notes.append(f"the first column, {numbers}, holds pandas' row numbers and is left out")
    return tuple(notes)
