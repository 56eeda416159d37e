"""The folder of an index: paths that are none, and arrays for which the disk has no room."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clipsearch.engines.local.arrays import create_array, map_array

from clipsearch.engine import IndexInfo
from clipsearch.engines.local import arrays
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.folder import FORMAT, INFO_FILE
from finetune.errors import EngineError

NO_ROOM = """
mount -t tmpfs -o size=300k tmpfs {disk} || exit 99
exec {python} -c '
import pathlib
from clipsearch.engines.local.arrays import create_array
array = create_array(pathlib.Path("{disk}/array.npy"), (1000, 1000))
array[:] = 1
'
"""


@pytest.mark.parametrize(
    "command",
    ["feed", "query --mode bm25 dogs", "similar a", "get a", "delete a --yes", "status"],
)
def test_a_path_that_is_no_index_is_one_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "photos.csv").write_text("id,caption\na,a dog\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.txt").write_text("a dog")
    words = command.split() + (["photos.csv", "--encoder", "nowhere"] if command == "feed" else [])
    for target, sentence in {
        "photos.csv": "Error: photos.csv: is a file, and an index is a folder",
        "pictures": "Error: pictures: no index there, but other files",
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", "clipsearch", *words, "--index", target],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "photos.csv", "pictures"]


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (600, 600)])
def test_a_new_array_is_zeros_and_keeps_what_is_written(
    tmp_path: Path, shape: tuple[int, int], reserved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reserved:
        monkeypatch.delattr(arrays.os, "posix_fallocate", raising=False)
    path = tmp_path / "array.npy"
    array = create_array(path, shape)
    assert array.shape == shape and array.dtype == np.float32 and not array.any()
    array[:] = np.arange(array.size, dtype=np.float32).reshape(shape)
    del array
    np.testing.assert_array_equal(np.load(path), np.arange(np.prod(shape)).reshape(shape))
    if shape[0]:
        np.testing.assert_array_equal(map_array(path), np.load(path))


def test_no_room_for_an_array_is_an_error_and_no_crash(tmp_path: Path) -> None:
    script = NO_ROOM.format(disk=tmp_path, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 99:
        pytest.skip("this machine does not let us mount a small disk")
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().endswith("No space left on device"), done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "3",
        "[]",
        '{"format": 1}',
        '{"format": 1, "dimension": "8"}',
        '{"format": 1, "dimension": 8, "tag_columns": 3}',
        '{"format": 1, "dimension": 8, "language": ["en"]}',
        '{"format": 1, "dimension": ' + "9" * 5_000 + "}",
    ],
    ids=["nested", "number", "array", "no dimension", "text", "columns", "language", "digits"],
)
def test_an_info_file_that_is_not_as_ours_is_one_sentence(tmp_path: Path, text: str) -> None:
    LocalEngine.create(tmp_path / "photos.index", IndexInfo(8)).close()
    path = tmp_path / "photos.index" / INFO_FILE
    path.write_text(text.replace('"format": 1', f'"format": {FORMAT}'))
    with pytest.raises(EngineError, match=r"index\.json") as caught:
        LocalEngine.open(tmp_path / "photos.index")
    assert "\n" not in str(caught.value)
