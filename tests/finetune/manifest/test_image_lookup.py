"""Where images are found whose names lack a suffix: as by asking for each, with fewer questions."""

import os
import random
from pathlib import Path

import pytest

from finetune.images.formats import image_suffixes
from finetune.manifest import image_lookup
from finetune.manifest.image_lookup import ImageLookup

SUFFIXES = ("", *sorted(image_suffixes()))


def asked_one_by_one(root: Path, image: str) -> tuple[int, str] | None:
    for suffix in SUFFIXES:
        for number, folder in enumerate((root, root / "images")):
            if (folder / (image + suffix)).is_file():
                return number, image + suffix
    return None


@pytest.mark.parametrize("most", [10_000, 3])
def test_a_listed_folder_holds_what_questions_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(image_lookup, "_MOST_LISTED", most)
    chance = random.Random(0)
    for folder in (tmp_path, tmp_path / "images", tmp_path / "images" / "sub"):
        folder.mkdir(exist_ok=True)
        for number in range(12):
            name = f"{number}{chance.choice(['', '.1', ' b'])}{chance.choice(SUFFIXES)}"
            (folder / name).touch()
    (tmp_path / "12.png").mkdir()
    lookup = ImageLookup(tmp_path, suffixes=SUFFIXES)
    names = [f"{number}{end}" for number in range(14) for end in ("", ".1", " b", ".png", ".jpg")]
    found = 0
    for name in [*names, *(f"sub/{name}" for name in names), "gone/1", "12.png/1", "1\0"]:
        answer = lookup.find(name)
        expected = None if "\0" in name else asked_one_by_one(tmp_path, name)
        assert (answer and (answer.folder, answer.path)) == expected, name
        found += expected is not None
    assert found > 30


def test_a_name_in_another_unicode_form_is_found(tmp_path: Path) -> None:
    (tmp_path / "cafe\u0301.png").touch()
    found = ImageLookup(tmp_path, suffixes=SUFFIXES).find("caf\xe9")
    assert found is not None and found.path in ("cafe\u0301.png", "caf\xe9.png")


def test_images_that_are_not_there_cost_no_question_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "captions.csv").touch()
    lookup = ImageLookup(tmp_path, suffixes=SUFFIXES)
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: asked.append(path) or stat(path, **how))
    assert all(lookup.find(f"d{number}") is None for number in range(100))
    assert not asked
