"""Vary training captions: words left out, other case, other punctuation. Imports only the
standard library.

What happens to a caption in an epoch follows from the seed, the epoch and the caption's index
alone, so that a resumed run shows the same texts again.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

from finetune.config.setting import Group, option_of, setting, settings_of
from finetune.errors import UsageError
from finetune.ranges import Range

CHANCE = Range(least=0, most=1, words="0 to 1")

_FINAL = re.compile(r"[\s.!?…]+$")
_INNER = re.compile(r"\s*[,;:](?=\s|$)")
_ENDS_WITH_WORD = re.compile(r"\w$")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionAugmentConfig:
    """What is done to a training caption; all of it is off by default.

    Attributes:
        word_drop: Chance that each word is left out; one word always stays.
        case: Chance that a caption is shown in lower case, with a capital first letter, or with
            a capital in front of every word, whichever of these is new. Tokenizers that
            lower-case by themselves, as CLIP's and SigLIP's do, see no difference.
        punctuation: Chance that a caption gains or loses its final full stop, or loses its
            commas, colons and semicolons.
    """

    word_drop: float = setting(
        Group.AUGMENTATION, 0.0, "Chance that a training caption loses each word.", range=CHANCE
    )
    case: float = setting(
        Group.AUGMENTATION,
        0.0,
        "Chance that a training caption is shown in another case; CLIP's tokenizer ignores it.",
        flag="--caption-case",
        range=CHANCE,
    )
    punctuation: float = setting(
        Group.AUGMENTATION,
        0.0,
        "Chance that a training caption is shown with other punctuation.",
        flag="--caption-punctuation",
        range=CHANCE,
    )

    @property
    def is_on(self) -> bool:
        """Whether any caption may change."""
        return bool(self.word_drop or self.case or self.punctuation)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Return the settings of a recipe's mapping, checked.

        Raises UsageError for an unknown name or a wrong value.
        """
        known = [item.name for item in fields(cls)]
        chances: dict[str, float] = {}
        for name, value in values.items():
            if name not in known:
                raise UsageError(
                    f"caption augment: there is no setting {name}; known are {', '.join(known)}"
                )
            try:
                chances[name] = float(str(value))
            except ValueError as error:
                raise UsageError(
                    f"caption augment: {name} must be a number, not {value}"
                ) from error
        config = cls(**chances)
        config.check()
        return config

    def check(self) -> None:
        """Raise UsageError for a chance outside 0 to 1, or a word drop that leaves nothing."""
        for name, declared in settings_of(type(self)).items():
            declared.check(option_of(name, declared), getattr(self, name))
        if self.word_drop == 1:
            raise UsageError("--word-drop 1 would leave one word of each caption; give less")


def augment_caption(
    caption: str, config: CaptionAugmentConfig, *, seed: int, epoch: int, index: int
) -> str:
    """Return the caption with this index (among all captions) as it is shown in an epoch.

    Never empty where the caption is not.
    """
    if not config.is_on:
        return caption
    # text, unlike numbers, gives the same stream in every version of Python
    chance = random.Random(f"caption {seed} {epoch} {index}")
    if chance.random() < config.punctuation:
        caption = _choose(caption, _other_punctuation(caption), chance)
    if config.word_drop:
        caption = _drop_words(caption, config.word_drop, chance)
    if chance.random() < config.case:
        caption = _choose(caption, (case(caption) for case in _CASES), chance)
    return caption


def augment_captions(
    captions: Sequence[str],
    indices: Iterable[int],
    config: CaptionAugmentConfig,
    *,
    seed: int,
    epoch: int,
) -> list[str]:
    """Return `captions[i]` for each of the indices, as shown in an epoch."""
    return [
        augment_caption(captions[index], config, seed=seed, epoch=epoch, index=int(index))
        for index in indices
    ]


def _choose(caption: str, others: Iterable[str], chance: random.Random) -> str:
    """Choose one of the others that differs from the caption and has a word.

    Returns the caption itself where there is none.
    """
    new = [text for text in dict.fromkeys(others) if text != caption and text.strip()]
    return chance.choice(new) if new else caption


def _drop_words(caption: str, rate: float, chance: random.Random) -> str:
    words = caption.split()
    if len(words) < 2:
        return caption
    kept = [word for word in words if chance.random() >= rate]
    return " ".join(kept or [chance.choice(words)])


def _other_punctuation(caption: str) -> list[str]:
    bare = _FINAL.sub("", caption)
    ends = bare if bare != caption else f"{caption}."
    # "a dog -" or "(red)" would look wrong with a full stop
    if bare == caption and not _ENDS_WITH_WORD.search(caption):
        ends = caption
    return [ends, _INNER.sub("", caption)]


def _capitalized(caption: str) -> str:
    return caption[:1].upper() + caption[1:]


def _title(caption: str) -> str:
    return re.sub(r"(?<!\S)\w", lambda first: first[0].upper(), caption)


_CASES: tuple[Callable[[str], str], ...] = (str.lower, _capitalized, _title)
