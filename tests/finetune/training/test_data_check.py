"""`finetune --recipe X --check`: one's manifests beside what the recipe expects."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from clipsearch.cli.finetune import finetune
from finetune.config.mapping import config_from_mapping
from finetune.config.recipes import ExpectedData, Recipe, load_recipe
from finetune.training.data_check import check_data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images, of which one has a caption twice and one has none."""
    rows = ["image,caption,split,class"]
    for number, (split, captions) in enumerate(
        [("train", ["a", "b"]), ("train", ["c", "c"]), ("val", ["d", "e"]), ("test", [""])]
    ):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        name = "ab"[number % 2]
        rows += [f"{number}.png,{caption},{split},{name}" for caption in captions]
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "photos.csv"


def config(photos: Path, **more: object):
    return config_from_mapping(
        {"manifest": photos, "model": "tiny", "batch_size": 2, "epochs": 3, **more}
    )


def recipe(**expected: object) -> Recipe:
    return Recipe("mine", "", (), (), {}, ExpectedData(**expected))


def test_each_count_is_compared(photos: Path) -> None:
    found = check_data(
        config(photos, zero_shot_classes="class", warmup=0),
        recipe(
            manifests=1, images=3, captions=6, captions_an_image=(2, 2), classes=2,
            splits={"train": 2, "val": 1, "test": 1}, note="Of squares.",
        ),
    )  # fmt: skip
    rows = {each.what: (each.found, each.expected, each.is_met) for each in found.comparisons}
    assert rows == {
        "manifests": ("1", "1", True),
        "images": ("3", "3", True),
        "captions": ("6", "6", True),
        "captions an image": ("2", "2", True),
        "split train": ("2", "2", True),
        "split val": ("1", "1", True),
        "split test": ("1", "1", True),
        "classes": ("2", "2", True),
    }
    assert found.steps == 3
    assert found.note == "Of squares."
    assert any("1 images have no caption" in warning for warning in found.warnings)


def test_what_differs_and_what_is_not_known(photos: Path) -> None:
    found = check_data(config(photos), recipe(images=13_634, captions_an_image=(5, 5)))
    rows = {each.what: each for each in found.comparisons}
    assert not rows["images"].is_met
    assert rows["images"].expected == "13,634"
    assert not rows["captions an image"].is_met
    assert rows["classes"].found == "none asked for"
    assert {rows[f"split {name}"].expected for name in ("train", "val", "test")} == {"not known"}
    assert not found.is_met


def test_settings_that_do_not_fit_the_data_are_warnings(photos: Path) -> None:
    late = check_data(config(photos, warmup=1000, learning_rate=3e-5), recipe())
    assert any(
        "--warmup 1,000 is longer than the run of 3 steps: the learning rate ends at 9e-08, 0% of"
        in warning
        for warning in late.warnings
    )
    large = check_data(config(photos, batch_size=64), recipe())
    assert any("--batch-size 64 is more than the 2 samples" in each for each in large.warnings)
    nameless = check_data(config(photos, zero_shot_classes="colour"), recipe())
    assert any("colour is neither a column of" in each for each in nameless.warnings)


def test_steps_are_those_that_training_takes(photos: Path) -> None:
    assert check_data(config(photos, captions="all"), recipe()).steps == 3 * 2
    dropped = config(photos, captions="all", last_batch="dropped")
    assert check_data(dropped, recipe()).steps == 3 * 1


def test_the_command_compares_and_stops(photos: Path, tmp_path: Path) -> None:
    arguments = [str(photos), "--recipe", "imageclef", "--check"]
    done = CliRunner().invoke(finetune, arguments, standalone_mode=False)
    assert done.exception is None
    assert done.return_value == 1
    lines = dict(line.split(None, 1) for line in done.output.splitlines() if line.startswith("im"))
    assert lines == {"images": "3  expected 164,614"}
    assert "Note: The authors test on 10,000 others." in done.output
    assert not (tmp_path / "encoder").exists()
    as_json = CliRunner().invoke(finetune, [*arguments, "--json"], standalone_mode=False)
    answer = json.loads(as_json.output)
    assert answer["as_expected"] is False
    assert answer["comparisons"][1] == {
        "what": "images", "found": "3", "expected": "164,614", "as_expected": False,
    }  # fmt: skip
    without = CliRunner().invoke(
        finetune, [str(photos), "--model", "tiny", "--check"], standalone_mode=False
    )
    assert "name one with --recipe" in str(without.exception)


def test_what_the_recipes_expect() -> None:
    rsicd = load_recipe("rsicd").expects
    assert rsicd.splits == {"train": 10_911, "val": 1_362, "test": 1_361}
    assert sum(rsicd.splits.values()) == rsicd.images == 10_921 + 2_100 + 613
    assert rsicd.captions == 5 * rsicd.images
    assert load_recipe("icons").expects.images == 23_000
    assert load_recipe("imageclef").expects.captions_an_image == (1, 1)
    assert "[More Information Needed]" in load_recipe("dermatology").expects.note


def test_splits_by_a_hash_are_as_expected_but_for_chance(tmp_path: Path) -> None:
    rows = [f"{number}.png,number {number}" for number in range(400)]
    for row in rows:
        (tmp_path / row.partition(",")[0]).touch()
    photos = tmp_path / "photos.csv"
    photos.write_text("\n".join(["image,caption", *rows]) + "\n")

    def splits(wanted: dict[str, int], **more: object) -> list[tuple[str, bool]]:
        found = check_data(config(photos, **more), recipe(splits=wanted))
        return [
            (each.expected, each.is_met)
            for each in found.comparisons
            if each.what.startswith("split")
        ]

    ninety = {"train": 360, "val": 40}
    assert splits(ninety, split_shares="0.9,0.1") == [
        ("about 360", True), ("about 40", True), ("0", True),
    ]  # fmt: skip
    assert [is_met for _, is_met in splits(ninety)] == [False, True, False]
