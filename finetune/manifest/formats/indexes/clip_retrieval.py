"""The folder that `clip-retrieval inference` writes: vectors, captions and paths, in parts.

`img_emb/img_emb_0.npy` (float16[n, d], of unit length), and `metadata/metadata_0.parquet` with a
row for each vector: `image_path`, `caption` where there are captions, and what img2dataset knew of
the image (https://github.com/rom1504/clip-retrieval). `text_emb/` is not read: a document has the
vector of its image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import ManifestError
from finetune.manifest.formats import parquet
from finetune.manifest.formats.columns import COLUMNS, ColumnNames
from finetune.manifest.formats.parquet import ParquetTable
from finetune.manifest.formats.row import Row, embedding_value
from finetune.manifest.merging.paired_vectors import PairedVectors
from finetune.manifest.problems import Problems

_IMAGE_COLUMN = ColumnNames(image="image_path")
_VECTORS, _TABLES, _TEXTS = "img_emb", "metadata", "text_emb"


@dataclass(frozen=True)
class ClipRetrievalFolder:
    """Parts, each a table and the file of its vectors."""

    root: Path
    parts: tuple[tuple[ParquetTable, Path], ...]
    has_texts: bool
    format: str = "clip-retrieval"
    suffixes: tuple[str, ...] = ("",)

    @property
    def captioned(self) -> bool:
        """Whether the tables have captions."""
        return any(table.captioned for table, _ in self.parts)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows of all parts, each with its vector.

        Raises:
            ManifestError: a file is damaged, or a table has not a row for each vector.
        """
        if self.has_texts:
            reason = f"{_TEXTS}/ is not read: an index holds the vectors of images"
            problems.note(COLUMNS, self.root.name, reason)
        before = 0
        for table, file in self.parts:
            vectors = PairedVectors.of(file)
            last = -1
            unread = problems.counts.copy()
            for row in table.rows(problems):
                last = row.number
                if last >= len(vectors):
                    break
                try:
                    embedding = embedding_value(vectors.row(last))
                except ValueError as error:
                    problems.add("bad embedding", row.where, str(error))
                    continue
                yield row._replace(number=before + last, embedding=embedding)
            # Bad rows at the end have vectors too, and no number that we know of.
            bad = sum(problems.counts.get(kind, 0) - unread.get(kind, 0) for kind in _BAD)
            if not last + 1 <= len(vectors) <= last + 1 + bad:
                raise ManifestError(
                    f"{file}: holds {len(vectors):,} vectors for the rows of {table.path.name},"
                    f" which are {'more' if last >= len(vectors) else f'{last + 1:,}'}; it is of"
                    f" another run, or one of them was cut off"
                )
            before += len(vectors)


_BAD = ("bad row", "not utf-8")


def recognise_folder(root: Path) -> ClipRetrievalFolder | None:
    """Return what clip-retrieval wrote; None for another folder.

    Raises:
        ManifestError: it has vectors of texts alone, or a part lacks its table or its vectors.
    """
    tables = _numbered(root / _TABLES, "parquet")
    vectors = _numbered(root / _VECTORS, "npy")
    texts = _numbered(root / _TEXTS, "npy")
    if not tables or not (vectors or texts):
        return None
    if not vectors:
        raise ManifestError(
            f"{root}: holds the vectors of texts alone ({_TEXTS}/); run clip-retrieval inference"
            " with --enable_image True"
        )
    for number in sorted(tables.keys() ^ vectors.keys()):
        found, lacking = (tables, _VECTORS) if number in tables else (vectors, _TABLES)
        raise ManifestError(f"{found[number]}: its part in {lacking}/ is missing")
    parts = (
        (parquet.recognise(tables[number], True, _IMAGE_COLUMN), vectors[number])
        for number in sorted(tables)
    )
    return ClipRetrievalFolder(root, tuple(parts), bool(texts))


def _numbered(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the parts in a folder by their numbers, which have leading zeros where needed."""
    found = sorted(folder.glob(f"{folder.name}_*.{suffix}"))
    return {each.stem.removeprefix(f"{folder.name}_"): each for each in found}
