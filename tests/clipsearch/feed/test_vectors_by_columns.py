"""Ready-made vectors that pass by columns are fed as records that pass one after another."""

import io
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from clipsearch.engines import open_engine
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.feed import vectors
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.feed.vectors import VectorSteps

ODD = ("ein Café", "a \x01 dog", 'she said "red"', "", "\ufffe", "back\\slash")


def write(path: Path, seed: int, changed: int = 0) -> None:
    chance = random.Random(seed)
    vectors_of = np.random.default_rng(seed)
    rows = []
    for number in range(120):
        vector = vectors_of.standard_normal(4).astype(np.float32).tolist()
        caption = chance.choice(ODD) if chance.random() < 0.2 else f"caption {number}"
        row = {"id": f"d{number:03}", "caption": caption, "year": str(2000 + number % 7)}
        row |= {"class": chance.choice(("red", "", "Größe"))}
        if chance.random() < 0.05:
            vector = [0.0] * 4
        if chance.random() < 0.05:
            row["id"] = ".."[: chance.randrange(1, 3)] + "\x02" * chance.randrange(2)
        if chance.random() < 0.9:
            row["embedding"] = vector
        if changed and number % changed == 0:
            row["caption"] = f"changed {number}"
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows), encoding="utf-8")


def fed(folder: Path, name: str, **options: object) -> FeedReport:
    values = {"manifest": folder / "photos.jsonl", "index": str(folder / name), **options}
    return feed(FeedOptions(**values), io.StringIO())  # type: ignore[arg-type]


def held(folder: Path, name: str) -> tuple[object, ...]:
    """Documents, ledger and report of an index, but for what is random in each."""
    engine = open_engine(str(folder / name))
    documents = sorted((each.id, str(each)) for each in engine.visit(embeddings=True))
    with closing(sqlite3.connect(folder / name / "ledger.sqlite")) as ledger:
        entries = ledger.execute("SELECT * FROM documents ORDER BY id").fetchall()
        digests = ledger.execute("SELECT * FROM compared ORDER BY bucket").fetchall()
    report = folder / name / "feed-report.csv"
    rows = sorted(report.read_text().splitlines()) if report.is_file() else []
    return documents, entries, digests, rows


def told(report: FeedReport) -> tuple[object, ...]:
    return (
        report.fed, report.updated, report.unchanged, report.removed, report.rejected,
        report.problems, report.blanked,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_by_columns_is_as_one_after_another(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BLOCK_RECORDS", 50)
    options: dict[str, object] = {"prune": seed % 2 == 0}
    if seed == 3:
        options["splits"] = ("train",)
    for changed in (0, 9, 2):
        write(tmp_path / "photos.jsonl", seed, changed)
        by_columns = fed(tmp_path, "columns", **options)
        with monkeypatch.context() as patch:
            patch.setattr(VectorSteps, "_many", lambda *_: None)
            one_by_one = fed(tmp_path, "records", **options)
        assert told(by_columns) == told(one_by_one)
        assert held(tmp_path, "columns") == held(tmp_path, "records")
    assert fed(tmp_path, "columns", **options).fed == 0


def test_stopped_between_blocks_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos.jsonl", 1)
    monkeypatch.setattr(vectors, "BLOCK_RECORDS", 30)
    whole = fed(tmp_path, "whole")
    real = LocalEngine.feed

    def stopped(self: LocalEngine, operations: object) -> object:
        for count, outcome in enumerate(real(self, operations)):  # type: ignore[arg-type]
            yield outcome
            if count == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalEngine, "feed", stopped)
        fed(tmp_path, "stopped")
    then = fed(tmp_path, "stopped")
    assert 0 < then.fed < whole.fed and then.fed + then.unchanged == whole.fed
    assert held(tmp_path, "stopped")[:3] == held(tmp_path, "whole")[:3]
