"""What a reader searches: everything of one version of the table, laid out for searching.

Built from the table after a feed and saved beside it as plain arrays, which a reader maps into
memory: a cold query opens them in milliseconds, all processes share one copy, and rows are in
the order of ids, so that equal scores come out by id. Where no snapshot is saved (a feed is under
way, or was killed) a reader builds one in memory.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Embedding
from clipsearch.engines.local.arrays import create_array, map_array
from clipsearch.engines.local.checksums import snapshot_digests
from clipsearch.engines.local.folder import SNAPSHOT_FILE
from clipsearch.engines.local.metadata import Metadata
from clipsearch.engines.local.postings import Postings
from clipsearch.engines.local.rows import Rows

if TYPE_CHECKING:  # light path: a saved snapshot is read without LanceDB, which takes a second
    import pyarrow as pa

    from clipsearch.engines.local.table import Addresses, DocumentTable

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the index.

    Attributes:
        version: Of the table.
        documents: By id.
        postings: The lexical side.
        metadata: Tags and numbers.
        embeddings: float32[documents, d].
        addresses: uint64[documents], where the table holds each row.
        address_order: int64[documents], rows by address.
        has_vector_index: Whether the table has an approximate index of the embeddings.
        data_sets: Data set to its number of documents.
    """

    version: int
    documents: Rows
    postings: Postings
    metadata: Metadata
    embeddings: npt.NDArray[np.float32]
    addresses: "Addresses"
    address_order: npt.NDArray[np.int64]
    has_vector_index: bool
    data_sets: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.documents)

    @classmethod
    def build(
        cls, table: "DocumentTable", dimension: int, folder: Path | None = None
    ) -> "Snapshot":
        """From the latest version of the table; with `folder`, saved there as well."""
        version = table.checkout()
        table.checkout(version)  # so that a writer's next commit does not change it half-way
        import pyarrow.compute as pc  # light path

        texts = table.texts()
        texts = texts.take(pc.sort_indices(texts["id"]))
        documents = _rows(texts)
        addresses = texts["_rowid"].to_numpy().astype(np.uint64)
        count = len(documents)
        if folder is None:
            embeddings = np.empty((count, dimension), np.float32)
        else:
            embeddings = create_array(folder / "embeddings.npy", (count, dimension))
        address_order = np.argsort(addresses, kind="stable")
        for part, vectors in table.embeddings():
            places = np.searchsorted(addresses, part, sorter=address_order)
            embeddings[address_order[places]] = vectors
        snapshot = cls(
            version,
            documents,
            _postings(texts),
            Metadata.build(documents, count),
            embeddings,
            addresses,
            address_order,
            table.has_vector_index(),
            Counter(document.data_set for document in documents),
        )
        if folder is not None:
            snapshot._save(folder)
        return snapshot

    def _save(self, folder: Path) -> None:
        self.documents.save(folder)
        self.postings.save(folder)
        self.metadata.save(folder)
        np.save(folder / "addresses.npy", self.addresses)
        np.save(folder / "address_order.npy", self.address_order)
        if isinstance(self.embeddings, np.memmap):
            self.embeddings.flush()
        digests = snapshot_digests(folder)
        facts = {
            "format": FORMAT,
            "version": self.version,
            "has_vector_index": self.has_vector_index,
            "data_sets": self.data_sets,
            "sizes": {name: (folder / name).stat().st_size for name in digests},
            "sha256": digests,
        }
        (folder / SNAPSHOT_FILE).write_text(json.dumps(facts, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Map what `build` saved. Raises OSError or ValueError where it is not whole."""
        facts = json.loads((folder / SNAPSHOT_FILE).read_text())
        if facts["format"] != FORMAT:
            raise ValueError(f"{folder}: snapshot of format {facts['format']}, not {FORMAT}")
        for name, size in facts["sizes"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{folder / name}: not of {size} bytes")
        documents = Rows.load(folder)
        return cls(
            facts["version"],
            documents,
            Postings.load(folder, len(documents)),
            Metadata.load(folder, len(documents)),
            map_array(folder / "embeddings.npy"),
            map_array(folder / "addresses.npy"),
            map_array(folder / "address_order.npy"),
            facts["has_vector_index"],
            # Snapshots of earlier versions do not say; no row of theirs has a data set.
            facts.get("data_sets", {"": len(documents)}),
        )

    def cosines(self, vector: Embedding, rows: npt.NDArray[np.int64] | None = None) -> Embedding:
        """float32: of the vector and every document, or those of `rows`."""
        matrix = self.embeddings if rows is None else self.embeddings[rows]
        # Not BLAS: its threads wait for each other for 10 ms where another process is busy, and
        # einsum sums every row alike, so that equal embeddings tie.
        products: Embedding = np.einsum("ij,j->i", matrix, vector)
        return products

    def rows_at(self, addresses: "Addresses") -> npt.NDArray[np.int64]:
        """Rows of the table's addresses; those that this version has not are left out."""
        if not len(self):
            return np.zeros(0, np.int64)
        places = np.searchsorted(self.addresses, addresses, sorter=self.address_order)
        rows = self.address_order[np.minimum(places, len(self) - 1)]
        found: npt.NDArray[np.int64] = rows[self.addresses[rows] == addresses]
        return found


def _rows(texts: "pa.Table") -> Rows:
    import pyarrow as pa

    column = texts["document"].cast(pa.large_string()).combine_chunks()
    _, starts, text = column.buffers()
    if len(column) == 0:
        return Rows(np.zeros(0, np.uint8), np.zeros(1, np.int64))
    offsets = np.frombuffer(starts, np.int64)[column.offset : column.offset + len(column) + 1]
    bytes_of_rows = np.frombuffer(text, np.uint8)[offsets[0] : offsets[-1]]
    return Rows(bytes_of_rows, offsets - offsets[0])


def _postings(texts: "pa.Table") -> Postings:
    import pyarrow.compute as pc

    tokens = texts["tokens"].combine_chunks()
    encoded = tokens.flatten().dictionary_encode()
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return Postings.build(
        encoded.dictionary.to_pylist(), codes.astype(np.int64), lengths.astype(np.int64)
    )
