"""Records written as their rows are read are those that merging rows in any order gives."""

import csv
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.manifest.manifest import Manifest
from finetune.manifest.merging.merge import Merger, OutOfOrderError
from finetune.manifest.merging.once import FIRST_LOOK, Once
from finetune.manifest.merging.paired_vectors import PairedVectors

Found = tuple[list[object], list[object], dict[str, str], list[object]]


def found(path: Path) -> Found:
    with Manifest.open(path, digests=True) as manifest:
        records = [
            (*(getattr(each, name) for name in each.__slots__ if name != "embedding"),
             None if each.embedding is None else each.embedding.tobytes())
            for each in manifest.records()
        ]  # fmt: skip
        problems = sorted((each.kind, each.where, each.reason) for each in manifest.problems)
        digests = manifest.digests
        listed = [digests.numbers.tolist(), digests.ids.tolist(), digests.rows.tolist()]
        numbered = list(manifest.numbered_records(digests.numbers))
        assert [each.id for each in numbered] == [each[0] for each in records]
        return records, problems, manifest.columns(), listed


@contextmanager
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which ways were gone to their ends."""
    gone: list[str] = []
    for name in ("run_in_order", "run_in_any_order"):

        def counted(merger: Merger, name: str = name, run: object = getattr(Merger, name)) -> None:
            run(merger)  # type: ignore[operator]
            gone.append(name)

        monkeypatch.setattr(Merger, name, counted)
    yield gone
    monkeypatch.undo()


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def rows_of(chance: random.Random, folder: Path) -> list[tuple[str, ...]]:
    starts = ("p", "é", "e\u0301", "")
    names = [f"{chance.choice(starts)}{number}.jpg" for number in range(30)]
    for name in chance.sample(names, 25):
        (folder / name).touch()
    rows: list[tuple[str, ...]] = []
    for name in names:
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            id = chance.choice(["", "", f"id {name}", "the same"])
            caption = chance.choice(["", "a dog", "['one', 'two']", f"dog {chance.random()}"])
            year = chance.choice(["2000", "2001.0", "x", ""])
            rows.append((name, caption, id, chance.choice(["train", "val", "no split", ""]), year))
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_both_ways_give_the_same(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    header = ("image", "caption", "id", "split", "year")
    path = tmp_path / "m.csv"
    rows = rows_of(chance, tmp_path)
    if seed % 3 == 0:
        rows = [(name, caption, "", *others) for name, caption, _, *others in rows]
    if seed % 4 == 1:
        chance.shuffle(rows)
    write(path, [header, *rows])
    if seed % 2:
        values = np.random.default_rng(seed).normal(size=(len(rows), 4))
        np.save(path.with_suffix(".npy"), values.astype([np.float16, np.float64][seed % 4 // 2]))
    quick = found(path)

    def never(merger: Merger) -> None:
        raise OutOfOrderError

    monkeypatch.setattr(Merger, "run_in_order", never)
    assert found(path) == quick


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (["a", "a", "b"], "run_in_order"),
        (["a", "b", "a"], "run_in_any_order"),
        (["101.0", "102.0"], "run_in_any_order"),  # all are whole numbers: the ids are 101, 102
        (["101.0", "b"], "run_in_order"),
    ],
)
def test_which_way_is_gone(
    names: list[str], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / name).touch()
    write(tmp_path / "m.csv", [("image", "caption"), *((name, "x") for name in names)])
    with ways(monkeypatch) as gone, Manifest.open(tmp_path / "m.csv") as manifest:
        expected = [name.removesuffix(".0") if "b" not in names else name for name in names]
        assert [each.id for each in manifest.records()] == list(dict.fromkeys(expected))
    assert gone == [way]


def test_a_text_that_comes_again_is_found() -> None:
    once = Once()
    assert all(once.add(str(number)) for number in range(3 * FIRST_LOOK))
    assert once.are_all_different()
    assert once.add("7")  # not looked for yet
    assert not once.are_all_different()
    assert not all(once.add(f"more {number}") for number in range(FIRST_LOOK))
    assert Once().are_all_different()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors_are_read_by_blocks_as_they_were_written(
    kind: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.manifest.merging.paired_vectors.BLOCK_BYTES", 1000)
    values = np.random.default_rng(0).normal(size=(101, 7)).astype(kind)
    np.save(tmp_path / "m.npy", np.asarray(values, order=order))  # type: ignore[call-overload]
    (tmp_path / "m.csv").touch()
    vectors = PairedVectors.beside(tmp_path / "m.csv")
    assert vectors is not None and len(vectors) == 101
    chance = random.Random(0)
    for number in [*range(101), *(chance.randrange(101) for _ in range(50))]:
        row = vectors.row(number)
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, values[number].astype(np.float32))


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("fixed", [True, False])
def test_embeddings_of_a_table_are_read_as_one_by_one(
    kind: str, fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once where they are of one length and finite, with the same problems elsewhere."""
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(kind)
    ids = [f"d{number}" for number in range(40)]

    def listed(rows: list[object]) -> pa.Array:
        values = pa.from_numpy_dtype(np.dtype(kind))
        return pa.array(rows, pa.list_(values, 3) if fixed else pa.list_(values))

    bad = [*values[:5], None, [np.nan, 0, 1], *values[7:]]
    other = [*values[:5], *([[0.5, 1.5]] if not fixed else [[0.5, 1.5, 2.5]]), *values[6:]]
    for number, rows in enumerate([list(values), bad, other]):
        path = tmp_path / f"{number}.parquet"
        table = pa.table({"id": ids, "caption": ["x"] * 40, "embedding": listed(rows)})
        pq.write_table(table.slice(1), path)
        at_once = found(path)
        monkeypatch.setattr("finetune.manifest.formats.parquet._are_all_of", lambda *_: False)
        assert found(path) == at_once
        monkeypatch.undo()
        if number == 0:
            assert len(at_once[0]) == 39 and not at_once[1][0][0].startswith("bad")  # type: ignore[index]
