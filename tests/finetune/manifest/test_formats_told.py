"""What people are told of the formats is what there is, in docs/feeding.md and in `--help`."""

import re
import subprocess
from pathlib import Path

from clipsearch_command import CLIPSEARCH
from small_manifests import FORMAT_NAMES

from finetune.manifest.formats.known import FORMATS, IN_FILES

REPOSITORY = Path(__file__).resolve().parents[3]


def test_each_name_is_of_one_format_that_is_read() -> None:
    names = [name for each in FORMATS for name in each.names]
    assert len(names) == len(set(names))
    folder = REPOSITORY / "finetune" / "manifest" / "formats"
    readers = "".join(path.read_text() for path in folder.rglob("*.py") if path.name != "known.py")
    assert [name for name in names if f'"{name}"' not in readers] == []
    # `read` in small_manifests holds every format that the tests read to these names.
    assert frozenset(names) == FORMAT_NAMES


def test_the_page_lists_them() -> None:
    text = (REPOSITORY / "docs" / "feeding.md").read_text(encoding="utf-8")
    table = text.partition("| format | what it looks like |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {each.title} | {each.looks} |" for each in IN_FILES]


def test_the_help_lists_them() -> None:
    command = [*CLIPSEARCH, "manifest", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = re.sub(r"\s+", " ", shown)
    for each in IN_FILES:
        assert f"{each.title} {each.looks.replace('`', '')}" in words
    assert max(map(len, shown.splitlines())) <= 80
