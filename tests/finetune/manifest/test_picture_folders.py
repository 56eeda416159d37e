"""Folders of pictures: what looks like one and is not taken is named, and nothing ends the rest."""

import io
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image
from small_manifests import captions, kinds, picture, pictures, problems, read

from finetune.errors import ManifestError
from finetune.images import formats as image_formats
from finetune.manifest.formats import folder
from finetune.manifest.manifest import Manifest


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, "manifest", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def stored(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 99, 200)).save(stream, kind)
    return stream.getvalue()


def not_taken(path: Path) -> dict[str, str]:
    """Place to reason of what is passed over."""
    found = problems(read(path)[0])
    return {each.where: each.reason for each in found if each.kind == "picture not taken"}


def test_every_suffix_that_can_be_decoded_is_scanned_with_its_captions(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(stored("JPEG"))
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "b.jfif").write_bytes(stored("JPEG"))
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "c.JPE").write_bytes(stored("JPEG"))
    (tmp_path / "d.tga").write_bytes(stored("TGA"))
    (tmp_path / "d.TXT").write_text("in capitals")
    manifest, records = read(tmp_path)
    expected = {"a.jpg": ("first",), "b.jfif": ("second",), "c.JPE": (), "d.tga": ("in capitals",)}
    assert captions(records) == expected
    assert not manifest.problems
    done = check(tmp_path, "--decode", "--strict", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 4


def test_names_of_either_unicode_form_belong_together(tmp_path: Path) -> None:
    pictures(tmp_path, "caf\u00e9.jpg", "cafe\u0301s.jpg")
    (tmp_path / "cafe\u0301.txt").write_text("one")
    (tmp_path / "caf\u00e9s.txt").write_text("two")
    manifest, records = read(tmp_path)
    assert sorted(record.captions for record in records) == [("one",), ("two",)]
    assert not manifest.problems and not manifest.problems.notes


def test_one_captioned_picture_among_many_is_a_note(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{number}.jpg" for number in range(9)))
    (tmp_path / "3.txt").write_text("the only one")
    (tmp_path / "README.txt").write_text("about these pictures")
    done = check(tmp_path, "--strict", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["problems"], answer["captions"]) == ({}, 1)
    assert answer["notes"]["no caption"] == 8
    assert answer["notes"]["text without picture"] == 1


def test_what_looks_like_a_picture_and_is_not_taken_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, "a.jpg")
    monkeypatch.setattr(image_formats, "reads_heic", lambda: False)
    monkeypatch.setattr(folder, "IMAGE_SUFFIXES", image_formats.image_suffixes())
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (tmp_path / "phone.txt").write_text("its caption")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "raw.NEF").write_bytes(b"MM\0*")
    (tmp_path / "IMG_1").write_bytes(stored("PNG"))
    (tmp_path / "photo.jpg_large").write_bytes(stored("JPEG"))
    (tmp_path / "drawing").write_text('<?xml version="1.0"?>\n<svg/>')
    (tmp_path / "notes.md").write_text("# no picture")
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / ".hidden").write_bytes(stored("PNG"))
    os.mkfifo(tmp_path / "pipe")
    found = not_taken(tmp_path)
    assert set(found) == {"phone.HEIC", "IMG_1", "photo.jpg_large", "drawing", "pipe"}
    assert "install the extra heic" in found["phone.HEIC"]
    assert "give it the suffix .png" in found["IMG_1"]
    assert found["pipe"] == "is a pipe, not a file"
    # What no installation reads is told, and no problem.
    assert read(tmp_path)[0].problems.notes == {"format not read": 2}
    with pytest.raises(ManifestError, match="5 picture not taken"):
        Manifest.open(tmp_path, strict=True)


def test_strict_fails_through_the_command_and_the_others_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "drawing.txt").write_text("its caption, so that it was meant to be taken")
    done = check(tmp_path, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["problems"] == {"picture not taken": 1}
    assert check(tmp_path, "--strict").returncode == 1


def test_a_folder_of_nothing_else_says_why_it_holds_no_images(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    with pytest.raises(ManifestError, match=r"holds no images.*drawing\.svg: is a drawing"):
        Manifest.open(tmp_path)


def test_linked_folders_are_named_and_linked_pictures_taken(tmp_path: Path) -> None:
    pictures(tmp_path / "elsewhere", "x.jpg")
    root = tmp_path / "photos"
    pictures(root, "a.jpg", "below/b.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "c.jpg").symlink_to(tmp_path / "elsewhere/x.jpg")
    (root / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    manifest, records = read(root)
    assert set(captions(records)) == {"a.jpg", "below/b.jpg", "c.jpg"}
    assert kinds(manifest) == {"linked folder": 2, "missing file": 1}
    assert "nowhere.jpg is a link that leads nowhere" in [
        each.reason for each in problems(manifest)
    ]


def test_an_unreadable_folder_is_named_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, "a.jpg", "closed/b.jpg", "open/c.jpg")
    scandir = os.scandir

    def guarded(path: str = "."):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    # This user may be root, to whom nothing is closed.
    monkeypatch.setattr(os, "scandir", guarded)
    manifest, records = read(tmp_path)
    assert set(captions(records)) == {"a.jpg", "open/c.jpg"}
    (problem,) = problems(manifest)
    assert (problem.kind, problem.where) == ("unreadable folder", "closed")
    assert "Permission denied" in problem.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="to root no folder is closed")
def test_a_closed_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert kinds(read(tmp_path)[0]) == {"unreadable folder": 1}
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_a_captions_file_that_cannot_be_read_costs_its_captions_alone(tmp_path: Path) -> None:
    names = [
        "blank",
        "device",
        "folder",
        "good",
        "large",
        "latin",
        "link",
        "pipe",
        "proc",
        "socket",
    ]
    pictures(tmp_path, *(f"{name}.jpg" for name in names))
    (tmp_path / "good.txt").write_text("a caption")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link.txt").symlink_to("gone")
    (tmp_path / "proc.txt").symlink_to("/proc/self/status")
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(folder.MAX_TEXT_BYTES + 1)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path may have a hundred characters
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
        manifest, records = read(tmp_path)
    assert {id for id, texts in captions(records).items() if texts} == {"good.jpg"}
    assert len(records) == len(names)
    assert kinds(manifest) == {"empty caption": 1, "unreadable captions": 6, "not utf-8": 1}
    reasons = {each.where: each.reason for each in problems(manifest)}
    assert "is a pipe, not a file" in reasons["pipe.txt"]
    assert "is a device, not a file" in reasons["device.txt"]
    assert "file of the kernel" in reasons["proc.txt"]
    assert "above the limit of 16 MiB" in reasons["large.txt"]
    # Listed among the folders, so it is no text file beside the picture.
    assert "folder.txt" not in reasons


def test_a_picture_that_is_no_regular_file_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "proc.jpg").symlink_to("/proc/self/mem")
    manifest, records = read(tmp_path)
    assert set(captions(records)) == {"a.jpg"}
    reasons = [each.reason for each in problems(manifest)]
    assert reasons == [
        "pipe.jpg is a pipe, not a file",
        "proc.jpg is a file of the kernel (/proc, /sys), which may have no end",
        "zero.jpg is a device, not a file",
    ]


def test_a_picture_in_the_place_of_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    picture(tmp_path / "b.jpg" / "c.jpg")
    assert set(captions(read(tmp_path)[1])) == {"a.jpg", "b.jpg/c.jpg"}
