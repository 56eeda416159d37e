"""Augmentation of captions: properties, exact variants, and that it can be repeated."""

import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config.caption_augmentation import (
    CaptionAugmentConfig,
    augment_caption,
    augment_captions,
)
from finetune.errors import UsageError

CAPTION = "two boats, one of them red, near a bridge"


def variants(caption: str, config: CaptionAugmentConfig, count: int = 200) -> list[str]:
    return [augment_caption(caption, config, seed=0, epoch=e, index=0) for e in range(count)]


def test_off_is_the_caption_itself() -> None:
    assert not CaptionAugmentConfig().is_on
    assert set(variants(" Two  dogs. ", CaptionAugmentConfig())) == {" Two  dogs. "}


def test_words_are_dropped_at_the_asked_rate_and_keep_their_order() -> None:
    words = list(string.ascii_lowercase)
    kept = [text.split() for text in variants(" ".join(words), CaptionAugmentConfig(word_drop=0.2))]
    assert all(text == sorted(text) and set(text) <= set(words) for text in kept)
    share = sum(map(len, kept)) / (len(kept) * len(words))
    assert 0.78 < share < 0.82
    # every place is dropped, the first and the last too
    assert all(any(word not in text for text in kept) for word in words)


def test_case_gives_exactly_the_other_cases() -> None:
    config = CaptionAugmentConfig(case=1)
    assert set(variants("a boat in Genoa's port", config)) == {
        "a boat in genoa's port",
        "A boat in Genoa's port",
        "A Boat In Genoa's Port",
    }
    assert set(variants("a red boat", config)) == {"A red boat", "A Red Boat"}
    assert set(variants("船", config)) == {"船"}


def test_punctuation_gives_exactly_the_other_punctuation() -> None:
    config = CaptionAugmentConfig(punctuation=1)
    assert set(variants(CAPTION, config)) == {
        f"{CAPTION}.",
        "two boats one of them red near a bridge",
    }
    assert set(variants("a red boat.", config)) == {"a red boat"}
    assert set(variants("at 1,000 m; or 3:4 (dusk)", config)) == {"at 1,000 m or 3:4 (dusk)"}
    assert set(variants("...", config)) == {"..."}


def test_a_chance_is_the_share_of_changed_captions() -> None:
    changed = [text != CAPTION for text in variants(CAPTION, CaptionAugmentConfig(case=0.3), 1000)]
    assert 0.25 < sum(changed) / 1000 < 0.35


@given(
    st.text(max_size=60),
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 10**9),
)
def test_no_caption_ever_becomes_empty(
    caption: str, word_drop: float, case: float, punctuation: float, seed: int
) -> None:
    config = CaptionAugmentConfig(word_drop=word_drop, case=case, punctuation=punctuation)
    text = augment_caption(caption, config, seed=seed, epoch=1, index=2)
    assert bool(text.strip()) == bool(caption.strip())


def test_seed_epoch_and_index_decide_in_any_process() -> None:
    config = CaptionAugmentConfig(word_drop=0.3, case=0.5, punctuation=0.5)

    def shown(seed: int, epoch: int) -> list[str]:
        return augment_captions([CAPTION] * 8, range(8), config, seed=seed, epoch=epoch)

    first = shown(3, 5)
    assert first == shown(3, 5)
    assert len(set(first)) > 4
    assert first != shown(3, 6)
    assert first != shown(4, 5)
    assert augment_captions([CAPTION] * 8, [6, 2], config, seed=3, epoch=5) == [first[6], first[2]]
    script = (
        "from finetune.config.caption_augmentation import *\n"
        f"config = CaptionAugmentConfig(word_drop=0.3, case=0.5, punctuation=0.5)\n"
        f"print(augment_captions([{CAPTION!r}] * 8, range(8), config, seed=3, epoch=5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == repr(first)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"word_drop": 1}, "--word-drop 1 would leave one word"),
        ({"word_drop": -0.1}, "--word-drop must be 0 to 1"),
        ({"case": float("nan")}, "--caption-case must be 0 to 1"),
        ({"punctuation": 2}, "--caption-punctuation must be 0 to 1, not 2"),
        ({"punctuation": "much"}, "must be a number"),
        ({"synonyms": 0.1}, "no setting synonyms; known are word_drop, case, punctuation"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CaptionAugmentConfig.from_mapping(values)
