"""What the loop reads, beside what test_batches says of the batches themselves."""

from dataclasses import replace
from pathlib import Path

import pytest
from squares import write_squares
from steps_alone import leave_out_what_follows

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.settings import TrainConfig
from finetune.data.tensors import TensorBatch
from finetune.errors import UsageError
from finetune.evaluation.validation import Evaluator
from finetune.training.loop import Batches
from finetune.training.train import train


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        manifest=write_squares(tmp_path / "squares", train=24, val=4), model="tiny",
        out=tmp_path / "out", batch_size=24, epochs=1, threads=1, workers=0,
    )  # fmt: skip


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[TensorBatch]:
    """Those that a run takes; nothing is exported."""
    taken: list[TensorBatch] = []
    real = Batches.next

    def kept(self, state):
        taken.append(real(self, state))
        return taken[-1]

    monkeypatch.setattr(Batches, "next", kept)
    leave_out_what_follows(monkeypatch)
    return taken


def test_captions_that_became_equal_are_no_negatives(config, batches) -> None:
    train(
        replace(config, epochs=3, caption_augment=CaptionAugmentConfig(word_drop=0.8)), quiet=True
    )
    equal = 0
    for batch in batches:
        texts = [tuple(row.tolist()) for row in batch.input_ids]
        for a, first in enumerate(texts):
            for b, second in enumerate(texts):
                if first == second:
                    assert batch.positives[a, b], (a, b)
                    equal += a != b
    assert equal


def test_a_dataset_whose_pictures_cannot_be_read_has_no_share(config, batches, tmp_path) -> None:
    other = write_squares(tmp_path / "other", train=2, val=2)
    for number in range(2):
        (other.parent / f"{number}.png").write_bytes(b"no picture")
    both = replace(config, more_manifests=(other,), dataset_weights=(1.0, 1.0))
    with pytest.raises(UsageError, match="manifest 2 the weight 1, but its split train has no"):
        train(both, quiet=True)


def test_no_evaluation_takes_the_tokenizer(config, batches, monkeypatch, tmp_path) -> None:
    """A thread that prepares varied captions uses it, and it is not made for two."""
    real = Evaluator.__call__

    def alone(self, *values):
        with monkeypatch.context() as patch:
            patch.setattr(self.dual, "tokenizer", None)
            return real(self, *values)

    monkeypatch.setattr(Evaluator, "__call__", alone)
    classes = tmp_path / "classes.csv"
    rows = [f"{number}.png,{('warm', 'cold')[number % 2]}" for number in range(28)]
    classes.write_text("\n".join(["image,class", *rows]) + "\n")
    result = train(
        replace(
            config, zero_shot_classes=str(classes), metric="hits@1",
            zero_shot_template=("a {category} picture", "{category}"),
        ),
        quiet=True,
    )  # fmt: skip
    assert (result.metrics["zero-shot"]["pool"], result.metrics["zero-shot"]["queries"]) == (2, 4)
