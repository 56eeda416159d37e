"""Manifests of a few pictures, for tests."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.manifest.formats.known import FORMATS
from finetune.manifest.manifest import Manifest, Record
from finetune.manifest.problems import Problem

RED = (200, 30, 30)
FORMAT_NAMES = frozenset(name for each in FORMATS for name in each.names)


def picture(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        picture(folder / name, (number, 2 * number, 3 * number))


def write_csv(path: Path, *rows: tuple[object, ...], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def read(path: Path | str, **options: object) -> tuple[Manifest, list[Record]]:
    manifest = Manifest.open(path, **options)  # type: ignore[arg-type]
    assert manifest.format in FORMAT_NAMES
    return manifest, list(manifest.records())


def captions(records: list[Record]) -> dict[str, tuple[str, ...]]:
    return {record.id: record.captions for record in records}


def kinds(manifest: Manifest) -> dict[str, int]:
    return manifest.problems.counts


def problems(manifest: Manifest) -> list[Problem]:
    return list(manifest.problems)


def tar_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (10, 10), colour).save(stream, "PNG")
    return stream.getvalue()


def karpathy(images: object, **more: object) -> str:
    return json.dumps({"dataset": "x", **more, "images": images})


def vectors(count: int, dimension: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)
