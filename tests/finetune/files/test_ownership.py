"""The rule for folders: what we wrote and nobody changed goes, all else stays and is named."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import UsageError
from finetune.files.ownership import (
    MARK_FILE,
    FolderKind,
    check_replaceable,
    claim,
    look,
    read_mark,
    remove,
    seal,
    update_files,
)
from finetune.files.replacement import built_aside, finish_replacement, sibling

KIND = FolderKind("encoder folder", ("encoder.json", "onnx/*.onnx", "parts/"))
OTHER = FolderKind("OpenCLIP folder", ("open_clip_config.json",))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARK_FILE
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write(tmp_path / "out", {"encoder.json": "{}", "onnx/text.onnx": "weights"})
    seal(made, KIND)
    return made


def test_names_stay_within_a_part() -> None:
    for name, ours in {
        "encoder.json": True, "onnx/text.onnx": True, "parts/a/b": True, "notes.txt": False,
        "onnx/deep/text.onnx": False, "text.onnx": False, "a/encoder.json": False,
        "encoder.json.0123abcd.clipsearch-partial": True, "x.0123abcd.clipsearch-partial": False,
    }.items():  # fmt: skip
        assert KIND.writes(name) is ours, name
    assert KIND.has_folder("onnx") and KIND.has_folder("parts") and not KIND.has_folder("mine")


def test_what_is_listed_and_unchanged_is_ours(folder: Path) -> None:
    held = check_replaceable(folder, KIND, "--out out", yes=False)
    assert held.marked and set(held.ours) == {"encoder.json", "onnx/text.onnx"}
    assert remove(folder, held.ours)
    assert not folder.exists()


@pytest.mark.parametrize("yes", [False, True])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "notes.txt was not written by clipsearch"),
        ("encoder.json", "encoder.json was changed since clipsearch wrote it"),
        ("onnx/mine.onnx", "onnx/mine.onnx was not written by clipsearch"),
        ("onnx/sub/a.txt", "onnx/sub/a.txt was not written by clipsearch"),
    ],
)
def test_anything_else_is_named_and_stays(folder: Path, name: str, reason: str, yes: bool) -> None:
    write(folder, {name: "mine"})
    before = content(folder)
    with pytest.raises(UsageError, match=reason):
        check_replaceable(folder, KIND, "--out out", yes=yes)
    with pytest.raises(UsageError, match=reason), built_aside(folder, KIND, "--out", yes=yes):
        raise AssertionError("never built")
    assert content(folder) == before
    assert not remove(folder, look(folder, KIND).ours)
    assert content(folder)[name] == b"mine"


def test_links_and_empty_folders_are_not_ours(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"a.txt": "mine"})
    (folder / "parts").symlink_to(tmp_path / "elsewhere")
    (folder / "encoder.json").unlink()
    (folder / "encoder.json").symlink_to(tmp_path / "elsewhere" / "a.txt")
    (folder / "empty").mkdir()
    assert set(look(folder, KIND).others) == {"parts", "encoder.json", "empty"}


def test_a_folder_of_an_earlier_version_needs_yes(tmp_path: Path) -> None:
    old = write(tmp_path / "old", {"encoder.json": "{}", "onnx/text.onnx": "weights"})
    with pytest.raises(UsageError, match="add --yes to replace its 2 files"):
        check_replaceable(old, KIND, "--out old", yes=False)
    assert not check_replaceable(old, KIND, "--out old", yes=True).marked
    write(old, {"notes.txt": "mine"})
    with pytest.raises(UsageError, match=r"notes\.txt was not written by clipsearch"):
        check_replaceable(old, KIND, "--out old", yes=True)


def test_a_folder_of_another_kind_is_not_ours(folder: Path) -> None:
    with pytest.raises(UsageError, match="belongs to another kind of folder, encoder folder"):
        check_replaceable(folder, OTHER, "--open-clip out", yes=True)


def test_a_broken_mark_counts_as_none(folder: Path) -> None:
    (folder / MARK_FILE).write_text("{")
    assert read_mark(folder) is None
    with pytest.raises(UsageError, match="--yes"):
        check_replaceable(folder, KIND, "--out out", yes=False)


def test_built_aside_replaces_as_a_whole_and_keeps_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with built_aside(tmp_path / "link", KIND, "--out") as partial:
        write(partial, {"encoder.json": "new"})
    assert content(folder) == {"encoder.json": b"new"} and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]
    with pytest.raises(OSError), built_aside(folder, KIND, "--out") as partial:
        raise OSError("the disk is full")
    assert content(folder) == {"encoder.json": b"new"}


@pytest.mark.parametrize("role", ["partial", "old"])
def test_a_folder_of_others_at_the_hidden_place_stays(folder: Path, role: str) -> None:
    hidden = write(sibling(folder, role), {"encoder.json": "mine", "diary.txt": "mine"})
    refused = pytest.raises(UsageError, match=r"diary\.txt was not written")
    with refused, built_aside(folder, KIND, "--out"):
        raise AssertionError("never built")
    assert content(hidden) == {"encoder.json": b"mine", "diary.txt": b"mine"}


def test_something_that_came_while_it_was_built_stays(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"late\.txt"), built_aside(folder, KIND, "--out"):
        write(folder, {"late.txt": "mine"})
    assert content(folder)["late.txt"] == b"mine"
    assert content(folder)["onnx/text.onnx"] == b"weights"


def test_a_kill_between_the_renames_is_mended(folder: Path) -> None:
    folder.rename(sibling(folder, "old"))
    finish_replacement(folder, KIND)
    assert content(folder)["encoder.json"] == b"{}" and not sibling(folder, "old").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from finetune.files import ownership
KIND = ownership.FolderKind("encoder folder", {names!r})
left = {steps}
def count(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
for name in ("replace", "unlink", "rename"):
    def wrapped(self, *a, _plain=getattr(Path, name), **k):
        count()
        return _plain(self, *a, **k)
    setattr(Path, name, wrapped)
ownership.update_files(Path(sys.argv[1]), KIND, {files!r}, what="--render")
"""


@pytest.mark.parametrize("steps", range(7))
def test_an_update_that_was_killed_is_finished_by_the_same_call(tmp_path: Path, steps: int) -> None:
    folder = tmp_path / "package"
    update_files(folder, KIND, {"encoder.json": b"old", "onnx/a.onnx": b"a"}, what="--render")
    write(folder, {"onnx/mine.txt": "mine", "parts/mine": "mine"})
    new = {"encoder.json": b"new", "onnx/b.onnx": b"b"}
    code = KILLED.format(names=KIND.names, steps=steps, files=new)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert done.returncode != 0 or steps >= 5
    update_files(folder, KIND, new, what="--render")
    assert content(folder) == new | {"onnx/mine.txt": b"mine", "parts/mine": b"mine"}
    mark = read_mark(folder)
    assert mark is not None and mark.whole and set(mark.files) == set(new)


def test_an_update_refuses_what_was_changed_or_is_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    update_files(folder, KIND, {"encoder.json": b"old", "onnx/a.onnx": b"a"}, what="--render")
    for name, files in {
        "encoder.json": {"encoder.json": b"new"},
        "onnx/a.onnx": {"encoder.json": b"old"},
        "parts": {"encoder.json": b"old", "onnx/a.onnx": b"a", "parts/x": b"x"},
    }.items():
        write(folder, {name: "mine"})
        before = content(folder)
        with pytest.raises(UsageError, match=name):
            update_files(folder, KIND, files, what="--render")
        assert content(folder) == before
        write(folder, {"encoder.json": "old", "onnx/a.onnx": "a"})


names = st.sampled_from(
    ["encoder.json", "onnx/a.onnx", "onnx/b.onnx", "parts/x", "notes.txt", "d/e"]
)


@settings(max_examples=60, deadline=None)
@given(
    ours=st.dictionaries(names.filter(KIND.writes), st.binary(max_size=3), min_size=1),
    theirs=st.dictionaries(names, st.binary(max_size=3)),
    new=st.dictionaries(names.filter(KIND.writes), st.binary(max_size=3)),
    yes=st.booleans(),
)
def test_bytes_of_others_are_the_same_whatever_is_done(
    tmp_path_factory: pytest.TempPathFactory,
    ours: dict[str, bytes],
    theirs: dict[str, bytes],
    new: dict[str, bytes],
    yes: bool,
) -> None:
    folder = tmp_path_factory.mktemp("made") / "out"
    folder.mkdir()
    claim(folder, KIND)
    write(folder, {name: data.decode("latin-1") for name, data in ours.items()})
    seal(folder, KIND)
    foreign = {
        n: d for n, d in theirs.items() if d.decode("latin-1").encode() != content(folder).get(n)
    }
    write(folder, {name: data.decode("latin-1") for name, data in foreign.items()})
    before = {name: data for name, data in content(folder).items() if name in foreign}
    for act in (
        lambda: update_files(folder, KIND, new, what="--render", yes=yes),
        lambda: remove(folder, check_replaceable(folder, KIND, "--out", yes=yes).ours),
        lambda: remove(folder, look(folder, KIND).ours),
    ):
        if not folder.exists():
            break
        try:
            act()
        except UsageError as error:
            assert any(name in str(error) for name in foreign)
        after = content(folder) if folder.exists() else {}
        assert {name: after.get(name) for name in before} == before
