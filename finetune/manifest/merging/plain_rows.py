"""Rows that mean no more than they say: most are so, and are merged some hundreds at once.

A record is made of each, the same that `Merger` makes of it by itself: one row an image, in ASCII,
its path relative and as records name it.
"""

import hashlib
import marshal
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Self

from finetune.manifest.formats.row import MetadataValue, Row
from finetune.manifest.image_lookup import ImageLookup
from finetune.manifest.merging.column_kinds import ColumnKinds
from finetune.manifest.merging.embeddings import Embeddings
from finetune.manifest.merging.record_digests import RecordDigests
from finetune.manifest.merging.stored_record import MARSHAL_VERSION, RecordRow
from finetune.manifest.problems import VECTOR_ALONE, Problems
from finetune.manifest.splits import HashedSplit, split_of_word

ROWS_AT_ONCE = 512
PlainPlace = tuple[int, str, bool, None, None, None]
# In a path that records name otherwise, or that is absolute.
_UNUSUAL_IN_PATH = ("\\", "//", "./", "/\n", "\n/", ":/")


def whole_images(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield some hundred rows at a time, those of one image that follow each other together."""
    stream = iter(rows)
    held: list[Row] = []
    while part := list(islice(stream, ROWS_AT_ONCE)):
        held += part
        last, cut = held[-1], len(held) - 1
        while cut and (held[cut - 1].image or held[cut - 1].id) == (last.image or last.id):
            cut -= 1
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Rows that follow each other, a column a field; each as in `Row`.

    Attributes:
        ids: The ids that are given; else the images, which are those of their records.
        are_given: Whether the ids are given.
        splits: "train", "val", "test"; None where none is given.
        has_vectors: Whether each row has its embedding in itself.
    """

    rows: Sequence[Row]
    numbers: Sequence[int]
    images: Sequence[str]
    captions: Sequence[tuple[str, ...]]
    ids: Sequence[str]
    are_given: bool
    splits: Sequence[str | None]
    metadata: Sequence[dict[str, MetadataValue] | None]
    embeddings: Sequence[bytes | None]

    @classmethod
    def of(cls, rows: Sequence[Row], *, captioned: bool) -> Self | None:
        """Lay out rows; None where any of them has to be looked at by itself."""
        numbers, _, _, images, captions, ids, splits, metadata, embeddings, shards, *_ = zip(
            *rows, strict=True
        )
        paths = "\n".join(images)
        if (
            any(shards)
            or not all(images)
            or len(set(images)) < len(images)
            or paths.startswith("/")
            or paths.endswith(("/", "/."))
            or any(each in paths for each in _UNUSUAL_IN_PATH)
        ):
            return None
        are_given = ids[0] is not None
        if are_given != all(ids) or are_given != any(ids):
            return None
        widths = {None if each is None else len(each) for each in embeddings}
        if len(widths) > 1:
            return None
        if (captioned and not all(captions)) or any(map(_repeats, captions)):
            return None
        words = {None: None} | {word: split_of_word(word) for word in set(splits) if word}
        if None in (meant for word, meant in words.items() if word is not None):
            return None
        texts = "".join(chain.from_iterable(captions))
        values = chain.from_iterable(each.items() for each in metadata if each)
        others = "".join([text for text in chain.from_iterable(values) if isinstance(text, str)])
        named = "".join(ids) if are_given else ""
        if not all(map(str.isascii, (paths, texts, others, named))) or "[" in texts:
            return None
        return cls(
            rows,
            numbers,
            images,
            captions,
            ids if are_given else images,
            are_given,
            [words[word] for word in splits],
            metadata,
            embeddings,
        )


def _repeats(captions: tuple[str, ...]) -> bool:
    return len(captions) > 1 and len(set(captions)) < len(captions)


@dataclass(frozen=True, slots=True)
class PlainRecords:
    """Makes records of plain rows; what it is given is `Merger`'s."""

    lookup: ImageLookup
    hashed_split: HashedSplit
    problems: Problems
    embeddings: Embeddings
    digests: RecordDigests | None
    columns: ColumnKinds
    folder_counts: dict[int, int]

    def of(self, plain: PlainRows) -> Iterator[RecordRow]:
        """Yield the records of rows, without those that are neither found nor have a vector."""
        has_vectors = self.embeddings.paired is not None or plain.embeddings[0] is not None
        places, statuses = self._places(plain, has_vectors)
        kept: Sequence[int] = range(len(places))
        if None in places:
            kept = [at for at, place in enumerate(places) if place is not None]
        numbers = [plain.numbers[at] for at in kept]
        ids = [plain.ids[at] for at in kept]
        self.columns.watch_all([each for at in kept if (each := plain.metadata[at])])
        splits = [
            plain.splits[at] or self.hashed_split(id) for at, id in zip(kept, ids, strict=True)
        ]
        dumps = marshal.dumps
        packed = [
            dumps((places[at], plain.captions[at], plain.metadata[at], None), MARSHAL_VERSION)
            for at in kept
        ]
        contents: Sequence[bytes | None] = [None] * len(kept)
        if self.digests is not None:
            if has_vectors and kept:
                contents = self._contents(numbers, plain, kept)
            self.digests.add_all(
                numbers, ids, splits, packed, contents, [statuses[at] for at in kept]
            )
        embeddings = numbers if has_vectors else [None] * len(numbers)
        return zip(numbers, ids, splits, packed, embeddings, contents, strict=True)

    def _places(
        self, plain: PlainRows, has_vectors: bool
    ) -> tuple[list[PlainPlace | None], list[os.stat_result | None]]:
        """Return where each row's image lies, as a plain `ImagePlace`, and the status of its file.

        None, and a problem, where it is not found and no vector stands for it.
        """
        images, lookup = plain.images, self.lookup
        # The lookup remembers an answer for each folder.
        if has_vectors and all(map(lookup.has_no_folder_of, images)):
            self._note_vectors_alone(plain, range(len(images)))
            return [(-1, image, False, None, None, None) for image in images], [None] * len(images)
        places: list[PlainPlace | None] = []
        statuses: list[os.stat_result | None] = []
        alone = []
        for at, image in enumerate(images):
            found = None
            if not (has_vectors and lookup.has_no_folder_of(image)):
                found = lookup.find(image)
            statuses.append(None if found is None else found.status)
            if found is not None:
                counts = self.folder_counts
                counts[found.folder] = counts.get(found.folder, 0) + 1
                places.append((found.folder, found.path, True, None, None, None))
            elif has_vectors:
                alone.append(at)
                places.append((-1, image, False, None, None, None))
            else:
                reason = lookup.why_missing(image)
                self.problems.add("missing file", plain.rows[at].where, reason, plain.ids[at])
                places.append(None)
        self._note_vectors_alone(plain, alone)
        return places, statuses

    def _note_vectors_alone(self, plain: PlainRows, places: Sequence[int]) -> None:
        source = plain.rows[0].source
        self.problems.note_all(
            VECTOR_ALONE,
            [
                (f"{source}:{plain.rows[at].line}", f"{plain.ids[at]}: has its vector alone")
                for at in places
            ],
        )

    def _contents(
        self, numbers: Sequence[int], plain: PlainRows, kept: Sequence[int]
    ) -> list[bytes]:
        """Return the sha256 of each embedding as float32."""
        sha256 = hashlib.sha256
        if self.embeddings.paired is None:
            return [sha256(plain.embeddings[at] or b"").digest() for at in kept]
        return [sha256(vector.data).digest() for vector in self.embeddings.rows(numbers)]
