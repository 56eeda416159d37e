"""Records that follow each other, a column a field: read without an object for each."""

import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from finetune.manifest.formats.row import MetadataValue

# Fields of StoredRecord; the others are left out where they are empty.
_ALWAYS_STORED = 4
# Id, split, packed, number of the row with the embedding, sha256 of the embedding.
StoredRow = tuple[str, str, bytes, int | None, bytes | None]


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Records of a manifest, in its order.

    Attributes:
        rows: As they are stored, by which `Manifest` makes any of them whole.
        ids, paths, captions, splits, metadata: As in `Record`.
        contents: sha256 of each embedding; None where there is none, or digests were not made.
        embeddings: float32[n, d]; None unless each record has one.
        is_plain: Of each record, whether its columns say all of it but where its image lies.
    """

    rows: Sequence[StoredRow]
    ids: Sequence[str]
    paths: Sequence[str]
    captions: Sequence[tuple[str, ...]]
    splits: Sequence[str]
    metadata: Sequence[dict[str, MetadataValue]]
    contents: Sequence[bytes | None]
    embeddings: npt.NDArray[np.float32] | None
    is_plain: Sequence[bool]

    @classmethod
    def of(
        cls,
        rows: Sequence[StoredRow],
        embeddings: npt.NDArray[np.float32] | None,
        main_folder: int,
    ) -> Self:
        """Unpack rows.

        Args:
            rows: At least one.
            embeddings: Of all rows; None where one has none.
            main_folder: From which relative paths are meant, as in `ImagePlace`.
        """
        ids, splits, packed, _, contents = zip(*rows, strict=True)
        load = marshal.loads
        places, captions, metadata, earlier = zip(
            *[load(each)[:_ALWAYS_STORED] for each in packed], strict=True
        )
        at_root = (-1, main_folder)
        return cls(
            rows,
            ids,
            [place[1] for place in places],
            captions,
            splits,
            [each or {} for each in metadata],
            contents,
            embeddings,
            [
                id is None and (not exists or (folder in at_root and shard is None))
                for (folder, _, exists, shard, *_), id in zip(places, earlier, strict=True)
            ],
        )
