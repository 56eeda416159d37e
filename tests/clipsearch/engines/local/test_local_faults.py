"""The embedded engine: broken files, kill -9, full disks, two at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import local_collection
import numpy as np
import pytest
from local_collection import DIMENSION, feed, make_document, make_embedding, same

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines import create_engine, open_engine
from clipsearch.engines.local import checksums
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.writing import upkeep
from clipsearch.operations import Delete, Update, Upsert
from finetune.errors import EngineError, UsageError


def test_opening_what_is_no_index(tmp_path: Path, engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="no index there"):
        open_engine(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(EngineError, match="holds something already"):
        create_engine(str(tmp_path / "file"), IndexInfo(4))
    with pytest.raises(EngineError, match="holds something already"):
        create_engine(engine.target, IndexInfo(4))
    with pytest.raises(UsageError, match="unknown language"):
        create_engine(str(tmp_path / "new"), IndexInfo(4, language="xx"))
    with pytest.raises(UsageError, match="0 dimensions"):
        create_engine(str(tmp_path / "new"), IndexInfo(0))
    assert not (tmp_path / "new").exists()
    info = Path(engine.target) / "index.json"
    stored = json.loads(info.read_text())
    info.write_text(json.dumps(stored | {"format": 99}))
    with pytest.raises(EngineError, match="format 99"):
        open_engine(engine.target)
    info.write_text("{")
    with pytest.raises(EngineError, match=r"index\.json: cannot be read"):
        open_engine(engine.target)


def test_info_travels_and_the_dimension_stays(engine: LocalEngine) -> None:
    info = replace(
        engine.info, encoder_name="é", tag_columns=("a", "b"), bm25_weight=0.3, images_root="/x"
    )
    assert engine.change_info(lambda _: info) == info
    assert LocalEngine.open(Path(engine.target)).info == engine.info == info
    with pytest.raises(EngineError, match="dimension"):
        engine.change_info(lambda known: replace(known, dimension=5))


def test_a_missing_store_is_one_sentence(engine: LocalEngine) -> None:
    store = Path(engine.target) / "documents.sqlite"
    store.rename(store.with_name("gone"))
    with pytest.raises(EngineError, match=r"documents\.sqlite: is missing"):
        engine.search(EngineQuery("bm25", ("dog",)))


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_broken_segment_is_laid_out_again(
    harm: str, engine: LocalEngine, collection: list[Document]
) -> None:
    folder = Path(engine.target)
    feed(engine, [Upsert(document) for document in collection[:60]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "due", lambda parts: [])
        changed = [Upsert(replace(collection[5], captions=("the red dog",)))]
        feed(engine, [*changed, *(Upsert(document) for document in collection[60:100])])
        query = EngineQuery("hybrid", ("dog",), make_embedding(np.random.default_rng(2)))
        expected = [(hit.document.id, hit.score) for hit in engine.search(query).hits]
        for path in sorted(folder.glob("segment-*")):
            kept = path.read_bytes()
            path.unlink()
            if harm == "cut":
                path.write_bytes(kept[: len(kept) // 2])
            reopened = LocalEngine.open(folder)
            hits = reopened.search(query).hits
            assert [(hit.document.id, hit.score) for hit in hits] == expected
            found = reopened.get([d.id for d in collection[:100]], embeddings=True)
            assert sum(map(same, found, collection)) == 99
            reopened.close()
            path.write_bytes(kept)
        path.unlink()
        feed(engine, [Delete(collection[7].id)])
        assert engine.count() == 99 and not checksums.verify(folder).broken


CHILD = """
import sys
sys.path[:0] = {path!r}
import local_collection as t
from pathlib import Path
from clipsearch.operations import Upsert
from clipsearch.engines.local.writing import write as batches
from clipsearch.engines.local.engine import LocalEngine
from finetune.errors import EngineError
"""


def run_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python code that has local_collection as `t` and the engine's names."""
    program = CHILD.format(path=[str(Path(local_collection.__file__).parent)]) + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FEED_FOREVER = """
batches.BATCH_OPERATIONS = 10
engine = LocalEngine.open(Path(sys.argv[1]))
def stream():
    number = int(sys.argv[2])
    while True:
        yield Upsert(t.make_document(number))
        number += 1
for outcome in engine.feed(stream()):
    print(outcome.operation.id, outcome.error, flush=True)
"""


def test_kill_9_leaves_whole_batches_and_all_that_was_acknowledged(engine: LocalEngine) -> None:
    folder = Path(engine.target)
    acknowledged: set[str] = set()
    source = random.Random(1)
    for start in (0, 1000, 2000):
        child = run_child(FEED_FOREVER, engine.target, str(start))
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(source.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        lines = [first, *child.stdout.read().splitlines()]
        child.wait()
        acknowledged |= {line.split()[0] for line in lines if line.strip().endswith(" None")}
        reader = LocalEngine.open(folder)
        present = {document.id for document in reader.visit()}
        assert acknowledged <= present
        assert len(present) % 10 == 0
        assert reader.search(EngineQuery("bm25", ("dog",))).total > 0
    engine.finish_feed()
    assert engine.count() == len(present)
    assert not list(folder.glob("*.tmp"))


def test_second_writer_is_refused_and_readers_go_on(engine: LocalEngine) -> None:
    child = run_child(FEED_FOREVER, engine.target, "0")
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(EngineError, match=rf"process {child.pid} is writing to it"):
            list(engine.feed([Upsert(make_document(5000))]))
        seen = [engine.count()]
        deadline = time.monotonic() + 20
        while seen[-1] < seen[0] + 30 and time.monotonic() < deadline:
            child.stdout.readline()
            total = engine.search(EngineQuery("vector", (), make_embedding(_generator()))).total
            assert total == min(100, max(total, 1))
            seen.append(engine.count())
        assert seen == sorted(seen) and seen[-1] > seen[0]
    finally:
        child.kill()
        child.communicate()
    feed(engine, [Upsert(make_document(5000))])


def _generator() -> np.random.Generator:
    return np.random.default_rng(1)


def test_two_engines_of_one_process_do_not_write_at_once(engine: LocalEngine) -> None:
    other = LocalEngine.open(Path(engine.target))
    running = engine.feed([Upsert(make_document(1)), Upsert(make_document(1))])
    next(running)
    with pytest.raises(EngineError, match="is writing to it"):
        list(other.feed([Upsert(make_document(2))]))
    list(running)
    feed(other, [Upsert(make_document(2))])
    assert engine.count() == 2


def test_readers_survive_a_writer_that_finishes_again_and_again(engine: LocalEngine) -> None:
    feed(engine, [Upsert(make_document(number)) for number in range(50)])
    stop = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        reader = LocalEngine.open(Path(engine.target))
        query = EngineQuery("hybrid", ("dog",), make_embedding(_generator()), facets=("class",))
        while not stop.is_set():
            try:
                assert reader.search(query).hits
                assert reader.get(["photos/0001.jpg"])[0] is not None
            except BaseException as error:
                problems.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(6):
        feed(engine, [Upsert(make_document(100 + step)), Update("photos/0001.jpg", path=str(step))])
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []


FEED_UNTIL_FULL = """
import itertools, resource
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
batches.BATCH_OPERATIONS = 200
engine = LocalEngine.open(Path(sys.argv[1]))
operations = (Upsert(t.make_document(number)) for number in itertools.count())
try:
    for outcome in engine.feed(operations):
        print(outcome.operation.id, outcome.error, flush=True)
    engine.finish_feed()
except EngineError as error:
    print("STOPPED", error, flush=True)
"""


def check_after_full_disk(folder: Path, child: subprocess.Popen[str], sentence: str) -> None:
    output, errors = child.communicate(timeout=120)
    lines = output.splitlines()
    assert lines and lines[-1].startswith("STOPPED"), errors
    assert sentence in lines[-1] and str(folder) in lines[-1]
    acknowledged = [line.split()[0] for line in lines[:-1] if line.endswith(" None")]
    reader = LocalEngine.open(folder)
    assert acknowledged and all(reader.get(acknowledged))


def test_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        folder = disk / "photos.index"
        LocalEngine.create(folder, IndexInfo(DIMENSION))
        check_after_full_disk(folder, run_child(FEED_UNTIL_FULL, str(folder)), "the disk is full")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_size_limit_loses_nothing_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "photos.index"
    engine = LocalEngine.create(folder, IndexInfo(DIMENSION))
    code = FEED_UNTIL_FULL.replace("itertools.count()", "range(4000)")
    child = run_child(code, str(folder), str(200_000))
    check_after_full_disk(folder, child, str(folder))
    engine.finish_feed()
    assert engine.search(EngineQuery("bm25", ("dog",))).total > 0


def test_cold_search_imports_nothing_heavy(engine: LocalEngine, collection: list[Document]) -> None:
    feed(engine, [Upsert(document) for document in collection[:60]])
    code = """
import numpy as np
from clipsearch.engine import EngineQuery
engine = LocalEngine.open(Path(sys.argv[1]))
for mode in ("bm25", "vector", "hybrid"):
    query = EngineQuery(mode, ("dog",), np.eye(1, 16, dtype=np.float32)[0], facets=("class",))
    assert engine.search(query).hits
assert engine.count() == 60 and engine.get(["photos/0001.jpg"])[0]
heavy = ("lancedb", "pyarrow", "pandas", "torch", "transformers", "onnxruntime")
print([name for name in heavy if name in sys.modules])
"""
    light = CHILD.format(path=[]).replace("import local_collection as t\n", "")
    light = light.replace("from clipsearch.engines.local.writing import write as batches\n", "")
    program = [sys.executable, "-c", light + code, engine.target]
    answer = subprocess.run(program, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "[]", answer.stderr
