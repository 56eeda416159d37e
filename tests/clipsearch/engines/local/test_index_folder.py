"""The folder of an index: paths that are none, and what it knows about itself."""

import subprocess
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH

from clipsearch.engine import IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.engines.local.folder import FORMAT, INFO_FILE
from finetune.errors import EngineError


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
            [*CLIPSEARCH, *words, "--index", target],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "photos.csv", "pictures"]


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
