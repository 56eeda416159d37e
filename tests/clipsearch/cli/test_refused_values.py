"""Values that cannot work are refused at the start, in one sentence, and JSON is always JSON."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from hypothesis import given
from hypothesis import strategies as st
from local_collection import DIMENSION, feed, make_document

from clipsearch.deployment.options import DeployOptions, check_destination
from clipsearch.documents import Document, check_document
from clipsearch.encoder import onnx_towers
from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import MAX_WEIGHT, EngineQuery, IndexInfo, fused_weights
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.feed.options import FeedOptions
from clipsearch.operations import Upsert
from clipsearch.search.parts import Part, unit_vector
from clipsearch.search.search import Search
from finetune.config.settings import TrainConfig
from finetune.errors import (
    DocumentError,
    EncoderError,
    EncoderMismatchError,
    TooLittleMemoryError,
    UsageError,
)
from finetune.evaluation.zero_shot import check_templates
from finetune.text.strict_json import dumps
from finetune.trackers import check_trackers
from finetune.training.checks import check_config


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION))
    feed(engine, [Upsert(make_document(number)) for number in range(20)])
    engine.close()
    return folder


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    words = [a if isinstance(a, bytes) else str(a) for a in arguments]
    return subprocess.run([*CLIPSEARCH, *words], capture_output=True, check=False)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(values)
def test_json_holds_no_nan_and_no_infinity(value: Any) -> None:
    read = json.loads(dumps(value, ensure_ascii=True), parse_constant=no_constant)

    def equal(found: Any, given: Any) -> bool:
        if isinstance(given, float):
            return found == given if math.isfinite(given) else found is None
        if isinstance(given, dict):
            return found.keys() == given.keys() and all(equal(found[k], given[k]) for k in given)
        if isinstance(given, list | tuple):
            return len(found) == len(given) and all(map(equal, found, given))
        return bool(found == given)

    assert equal(read, value)


def test_json_of_other_things_takes_the_default() -> None:
    assert json.loads(dumps({"path": Path("a"), "nan": math.nan}, default=str)) == {
        "path": "a", "nan": None,
    }  # fmt: skip
    with pytest.raises(TypeError):
        dumps({"path": Path("a"), "nan": math.nan})


@pytest.mark.parametrize("weight", ["1e308", "inf", "nan", "-1", "1e10"])
def test_a_weight_that_overflows_is_refused(index: Path, weight: str) -> None:
    with (
        Search.open(index) as search,
        pytest.raises(UsageError, match="finite number of 0 or more"),
    ):
        search.query("dog", vector=np.ones(DIMENSION), mode="hybrid", bm25_weight=float(weight))
    with pytest.raises(UsageError, match="finite number of 0 or more"):
        fused_weights(EngineQuery("hybrid"), IndexInfo(DIMENSION, vector_weight=float(weight)))


def test_the_largest_weights_give_json(index: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones(DIMENSION))
    query = ("query", "dog", "--index", index, "--vector", tmp_path / "v.npy", "--json")
    refused = clipsearch(*query, "--bm25-weight", "1e308")
    assert refused.returncode == 2 and refused.stderr.count(b"\n") == 1
    with Search.open(index) as search:
        for mode in ("hybrid", "hybrid-rrf", "hybrid-normalized"):
            page = search.query(
                vector=np.ones(DIMENSION), parts=[Part("vector", np.eye(DIMENSION)[0], MAX_WEIGHT)],
                mode=mode, bm25_weight=MAX_WEIGHT, vector_weight=MAX_WEIGHT,
            )  # fmt: skip
            assert page.hits and all(math.isfinite(hit.score) for hit in page.hits)


def test_weights_of_parts_count_by_their_proportion(index: Path) -> None:
    one, other = np.eye(DIMENSION)[:2]
    with Search.open(index) as search:

        def scores(scale: float) -> list[float]:
            parts = [Part("vector", one, 2 * scale), Part("vector", other, -scale)]
            return [hit.score for hit in search.query(parts=parts).hits]

        for scale in (1e-320, 1e-12, 4e8):
            assert scores(scale) == pytest.approx(scores(1.0), abs=1e-6 if scale > 1e-300 else 1e-3)
        for weight in (1e308, math.inf, math.nan):
            with pytest.raises(UsageError, match="weights must be finite"):
                search.query(parts=[Part("vector", one, weight)])


def broken_vectors(folder: Path) -> dict[str, Path]:
    """.npy files that hold no vector, by what is wrong."""
    whole = folder / "whole.npy"
    np.save(whole, np.ones(DIMENSION, np.float32))
    data = whole.read_bytes()
    contents = {
        "empty": b"", "text": b"not an array", "cut": data[:-3], "header": data[:20],
        "huge": data.replace(b"(16,), }         ", b"(10000000000,), }"),
        "garbled": data[:10] + b"\xff" * 40 + data[50:],
    }  # fmt: skip
    for name, content in contents.items():
        (folder / f"{name}.npy").write_bytes(content)
    arrays: dict[str, Any] = {
        "words": np.array(["a"] * DIMENSION), "complex": np.ones(DIMENSION, complex),
        "objects": np.array([None] * DIMENSION, object), "zeros": np.zeros(DIMENSION),
        "infinite": np.full(DIMENSION, np.inf), "shape": np.ones((2, DIMENSION)),
        "record": np.zeros(DIMENSION, [("a", "f4")]),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    with (folder / "archive.npy").open("wb") as file:
        np.savez(file, a=np.ones(DIMENSION))
    (folder / "folder.npy").mkdir()
    os.mkfifo(folder / "fifo.npy")
    names = [*contents, *arrays, "archive", "folder", "fifo", "missing"]
    return {name: folder / f"{name}.npy" for name in names}


def test_a_bad_vector_is_a_wrong_option(tmp_path: Path, index: Path) -> None:
    broken = broken_vectors(tmp_path)
    for path in broken.values():
        with pytest.raises(UsageError, match=path.name):
            unit_vector(Part("vector", str(path)), DIMENSION)
    for name in ("garbled", "archive", "words"):
        done = clipsearch("query", "--vector", broken[name], "--index", index)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1 and broken[name].name.encode() in done.stderr
    for value in ("a b", [[1.0], [1.0, 2.0]], [None] * DIMENSION, ["x"] * DIMENSION):
        with pytest.raises(UsageError), Search.open(index) as search:
            search.query(vector=value)


def test_large_and_small_vectors_are_brought_to_unit_length() -> None:
    for scale in (1e30, 1e-30, 1e300, 1e-300, 1):
        vector = np.arange(1.0, DIMENSION + 1) * scale
        unit = unit_vector(Part("vector", vector), DIMENSION)
        np.testing.assert_allclose(unit, vector / scale / np.linalg.norm(vector / scale), rtol=1e-6)
        assert unit.dtype == np.float32


def test_one_text_is_no_list_of_texts(index: Path, encoder_folder: Path) -> None:
    engine = LocalEngine.open(index)
    with Search.open(index) as search:
        train = TrainConfig(manifest="m.csv", model="tiny", out="nowhere")
        for call in (
            lambda: search.get("id"),
            lambda: engine.get("id"),
            lambda: search.query("dog", mode="bm25", facets="class"),
            lambda: search.query(parts="dog"),
            lambda: Encoder.load(encoder_folder).encode_texts("dog"),
            lambda: FeedOptions(manifest=Path("m"), index="i", splits="train").check(),
            lambda: FeedOptions(manifest=Path("m"), index="i", tags="year").check(),
            lambda: check_destination(DeployOptions(index="http://x", allow="an-id")),
            lambda: check_trackers("wandb"),
            lambda: check_templates("a {category}"),
            lambda: check_config(
                TrainConfig(manifest="m", model="tiny", out=train.out, freeze="image")
            ),
        ):
            with pytest.raises(UsageError, match="list of texts, not one text"):
                call()
    with pytest.raises(DocumentError, match="one text, not several"):
        check_document(Document("a", "a dog", embedding=np.eye(DIMENSION)[0]), DIMENSION)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", b"caf\xe9"], ["query", "--text", b"caf\xe9:2"], ["query", "--id", b"\xff.jpg"],
        ["query", "dog", "--filter", b"class=\xff"], ["similar", b"\xff"], ["get", "a", b"\xff"],
        ["delete", "--yes", b"\xff"],
    ],
    ids=str,
)  # fmt: skip
def test_half_utf8_is_refused_as_on_standard_input(index: Path, arguments: list[Any]) -> None:
    done = clipsearch(*arguments, "--index", index)
    assert done.returncode == 2, done.stderr
    assert b"is not UTF-8" in done.stderr and done.stderr.count(b"\n") == 1


def test_half_a_surrogate_is_no_query(index: Path) -> None:
    with Search.open(index) as search, pytest.raises(UsageError, match="half of a character"):
        search.query("caf\udce9", mode="bm25")


SCARCE = """
import resource, sys
import numpy as np
import clipsearch.cli, clipsearch.encoder.onnx_towers, tokenizers
from clipsearch.encoder.encoder import Encoder

@clipsearch.cli.cli.command("scarce")
def scarce():
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    encoder = Encoder.load(sys.argv[1], threads=1)
    encoder.encode_texts(["a dog"])
    size = (encoder.preprocessing.height, encoder.preprocessing.width, 3)
    encoder.encode_pixels(np.zeros((int(sys.argv[3]), *size), np.uint8))

clipsearch.cli.COMMANDS["scarce"] = "Take more memory than there is."
clipsearch.cli.LazyGroup.get_command = lambda self, context, name: scarce
clipsearch.cli.main(["scarce"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_too_little_memory_is_called_that(encoder_folder: Path) -> None:
    code = [sys.executable, "-c", SCARCE, str(encoder_folder), "300", "20000"]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "too little memory" in done.stderr and "export the encoder" not in done.stderr


class PanicException(BaseException):
    """What tokenizers raises, which is no Exception."""


@pytest.mark.parametrize(
    ("error", "too_little"),
    [
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (MemoryError(), True),
        (
            PanicException('ThreadPoolBuildError { message: "Resource temporarily unavailable" }'),
            True,
        ),
        (RuntimeError("Protobuf parsing failed."), False),
        (OSError(errno.ENOENT, "No such file or directory"), False),
    ],
    ids=str,
)
def test_too_little_memory_is_told_from_a_broken_file(
    encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    too_little: bool,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    encoder = Encoder.load(encoder_folder, threads=1)
    expected = TooLittleMemoryError if too_little else EncoderError
    if isinstance(error, Exception):
        monkeypatch.setattr(onnx_towers.onnxruntime, "InferenceSession", fail)
        with pytest.raises(expected):
            encoder.encode_texts(["a dog"])
    encoder = Encoder.load(encoder_folder, threads=1)
    monkeypatch.setattr(encoder, "_tokenizer", SimpleNamespace(encode_batch=fail))
    with pytest.raises(expected if isinstance(error, PanicException) else type(error)):
        encoder.encode_texts(["a dog"])


def test_what_is_said_of_another_encoder_is_not_refused_then(
    encoder_folder: Path, tmp_path: Path
) -> None:
    engine = LocalEngine.create(
        tmp_path / "i", IndexInfo(16, encoder_fingerprint="0" * 64, encoder_name="old")
    )
    engine.close()
    with pytest.raises(EncoderMismatchError, match="feed a new index with the latter"):
        Search.open(tmp_path / "i", encoder=encoder_folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--index", ""),
        ("feed", "", "--index", "new.index"),
        ("feed", "m.csv", "--index", ""),
        ("manifest", "check", ""),
        ("finetune", ""),
        ("evaluate", "", "m.csv"),
        ("export", ""),
    ],
)
def test_an_empty_path_is_not_this_folder(arguments: tuple[str, ...]) -> None:
    """As of a shell variable that is not set."""
    done = clipsearch(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"is empty (a shell variable that is not set, perhaps)" in done.stderr


def test_what_lies_there_instead_of_a_picture_or_vector_is_named(
    index: Path, tmp_path: Path
) -> None:
    pipe, table, missing = tmp_path / "pipe", tmp_path / "table.csv", tmp_path / "missing.npy"
    os.mkfifo(pipe)
    table.write_text("image,caption\n")
    for path, said in (
        (pipe, f"{pipe}: is a pipe, not a file; give an .npy file"),
        (missing, f"{missing}: no such file; give an .npy file"),
        (tmp_path, f"{tmp_path}: is a folder, not a file; give an .npy file"),
        # Not NumPy's advice to load it in an unsafe way.
        (table, f"{table}: is no .npy file of one vector\n"),
    ):
        done = clipsearch("query", "--vector", path, "--index", index)
        assert done.returncode == 2
        assert said in done.stderr.decode(), path
