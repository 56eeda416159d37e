"""docs/settings.md says what is declared, and all of it."""

from dataclasses import fields

from settings_page import PAGE, made

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.resuming import OPERATIONAL
from finetune.config.settings import TrainConfig

TEXT = PAGE.read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    lines = [line for line in TEXT.splitlines() if line.startswith("| `")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {each[0].strip("`"): each for each in cells}


def test_the_page_is_up_to_date() -> None:
    assert made() == TEXT, "run: make settings"


def test_every_setting_has_a_row_that_tells_whether_it_may_change() -> None:
    names = {item.name for item in fields(TrainConfig)} - {"caption_augment"}
    inner = {f"caption_augment.{item.name}" for item in fields(CaptionAugmentConfig)}
    found = rows()
    assert found.keys() == names | inner
    assert {name for name, cells in found.items() if cells[5].strip() == "yes"} == OPERATIONAL


def test_a_row_has_type_default_range_and_help() -> None:
    cells = [cell.strip() for cell in rows()["beta2"]]
    told = ["`beta2`", "`--beta2`", "number", "`0.98`", "at least 0 and below 1", ""]
    assert cells == [*told, "Of AdamW and Adam."]
    assert rows()["model"][3] == "must be given"
    assert rows()["freeze"][2] == "several of `image`, `text`"
