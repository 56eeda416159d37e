"""Small manifests of small pictures, each in a folder of its own, and feeds of them."""

import csv
import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch.documents import Document
from clipsearch.engines import open_engine
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport


def paint(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A picture of noise, another one for every seed; as PNG they differ in size too."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path)


class Manifest:
    """`manifest` lists `pictures` (name to caption), which lie beside it."""

    def __init__(self, folder: Path, names: Mapping[str, int], name: str = "m.csv") -> None:
        self.folder = folder
        self.path = folder / name
        self.captions = {image: f"{folder.name} {image}" for image in names}
        for image, seed in names.items():
            paint(folder / image, seed)
        self.write()

    def write(self) -> None:
        """Write the manifest anew."""
        with self.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption"])
            writer.writerows(self.captions.items())

    def rename(self, old: str, new: str) -> None:
        """Rename a picture, in the folder and in the manifest."""
        (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.folder / old, self.folder / new)
        self.captions = {
            new if image == old else image: caption for image, caption in self.captions.items()
        }
        self.write()

    def feed(self, index: Path | str, encoder: Path | None = None, **options: object) -> FeedReport:
        """Feed it in this process."""
        values = {"manifest": self.path, "index": str(index), "workers": 0, **options}
        return feed(FeedOptions(encoder=encoder, **values), progress_stream=io.StringIO())  # type: ignore[arg-type]


def documents(index: Path | str) -> dict[str, Document]:
    """All documents of an index, with their embeddings."""
    engine = open_engine(str(index))
    try:
        return {document.id: document for document in engine.visit(embeddings=True)}
    finally:
        engine.close()


def counts(report: FeedReport) -> tuple[int, int, int, int, int]:
    """Fed, updated, unchanged, removed, rejected."""
    return report.fed, report.updated, report.unchanged, report.removed, report.rejected
