"""One call over many codes or vectors, by faiss and by NumPy: both against plain twins."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CODE
from local_collection import in_segments, make_document, through_codes

from clipsearch.engines.local.vectors import kernels
from clipsearch.engines.local.vectors.kernels import differing, products_at


@pytest.fixture(params=["faiss", "NumPy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "faiss":
        pytest.importorskip("faiss", reason="faiss is installed on Linux alone")
        assert kernels.load() is not None and kernels._faiss() is not None
    else:
        monkeypatch.setattr(kernels, "_faiss", lambda: None)
    yield request.param


@pytest.mark.parametrize("words", [1, 2, 3, 4, 8, 12, 16, 27])
@pytest.mark.parametrize(("asked", "count"), [(1, 0), (0, 5), (1, 1), (5, 4095), (2, 9000)])
def test_bits_that_differ_are_counted(library: str, words: int, asked: int, count: int) -> None:
    chance = np.random.default_rng(words)
    questions = chance.integers(0, 2**64, (asked, words), dtype=np.uint64)
    codes = chance.integers(0, 2**64, (count, words), dtype=np.uint64)
    codes[:1] = 2**64 - 1  # all of them
    questions[:1] = 0
    found = differing(questions, codes)
    expected = np.bitwise_count(questions[:, None] ^ codes[None]).sum(axis=2, dtype=np.int32)
    assert found.shape == (asked, count) and found.dtype == np.int32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dimension", [1, 7, 16, 100, 512, 513])
def test_products_of_rows_here_and_there(library: str, dimension: int) -> None:
    chance = np.random.default_rng(dimension)
    vectors = chance.standard_normal((400, dimension)).astype(np.float32)
    vector = chance.standard_normal(dimension).astype(np.float32)
    places = chance.integers(0, 400, 37)
    found = products_at(vectors, places, vector)
    expected = vectors[places].astype(np.float64) @ vector.astype(np.float64)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.sqrt(dimension))
    assert found.dtype == np.float32
    assert len(products_at(vectors, places[:0], vector)) == 0


@pytest.mark.parametrize("dimension", [3, 17, 511, 512, 768])
def test_equal_rows_have_equal_products_wherever_they_stand(library: str, dimension: int) -> None:
    chance = np.random.default_rng(0)
    one, vector = chance.standard_normal((2, dimension)).astype(np.float32)
    # Not at a multiple of a register's bytes either.
    loose = np.empty(60 * dimension + 1, np.float32)[1:].reshape(60, dimension)
    loose[:] = chance.standard_normal((60, dimension))
    loose[::3] = one
    found = {
        products_at(loose, np.arange(start, 60, 3)[:count], vector)[-1]
        for count in range(1, 19)
        for start in (0, 3, 6)
    }
    assert len(found) == 1


def test_what_does_not_lie_in_a_row_is_copied_and_held(library: str) -> None:
    chance = np.random.default_rng(0)
    table = chance.standard_normal((64, 200)).astype(np.float32)
    codes = chance.integers(0, 2**64, (4, 3000), dtype=np.uint64)
    for place in range(40):
        vector, rows = table[:, place], table.T[::2]
        expected = rows @ np.ascontiguousarray(vector)
        np.testing.assert_allclose(products_at(rows, np.arange(100), vector), expected, atol=1e-4)
        counted = differing(codes.T[place : place + 1], codes.T)
        assert counted[0, place] == 0
        assert counted.sum() == np.bitwise_count(codes.T[place] ^ codes.T).sum()


def test_a_single_question_does_without_faiss(tmp_path: Path) -> None:
    """Its import would take longer than it saves; the second question has it."""
    asked = (
        "import sys, pathlib\n"
        "from clipsearch.engine import EngineQuery\n"
        "from clipsearch.engines.local.engine import LocalEngine\n"
        "import numpy as np\n"
        "engine = LocalEngine.open(pathlib.Path(sys.argv[1]))\n"
        "query = EngineQuery('vector', (), np.ones(16, np.float32) / 4)\n"
        "found = [(hit.document.id, round(hit.score, 5)) for hit in engine.search(query).hits]\n"
        "print('faiss' in sys.modules)\n"
        "again = [(hit.document.id, round(hit.score, 5)) for hit in engine.search(query).hits]\n"
        "print('faiss' in sys.modules, found == again)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        through_codes(patch)
        documents = [make_document(number) for number in range(200)]
        in_segments(tmp_path / "index", documents, 1).close()
    command = [sys.executable, "-c", asked, str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    there = str(importlib.util.find_spec("faiss") is not None and sys.platform == "linux")
    assert done.stdout == f"False\n{there} True\n"


def test_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert kernels.load.__wrapped__() is None


@pytest.mark.parametrize("place", [-1, 4])
def test_a_row_that_is_not_there_is_no_answer(library: str, place: int) -> None:
    with pytest.raises(IndexError):
        products_at(np.zeros((4, 3), np.float32), np.array([0, place]), np.zeros(3, np.float32))


def test_the_threads_of_torch_stay() -> None:
    """In a process of its own, since faiss and torch share what comes first."""
    asked = (
        "import numpy as np, torch\n"
        "from clipsearch.engines.local.vectors.kernels import differing, products_at\n"
        "from clipsearch.engines.local.vectors import kernels\n"
        "kernels.load()\n"
        "torch.set_num_threads(2)\n"
        "torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "products_at(np.ones((9, 4), np.float32), np.arange(9), np.ones(4, np.float32))\n"
        "differing(np.ones((2, 3), np.uint64), np.ones((9, 3), np.uint64))\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([*CODE, asked], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
