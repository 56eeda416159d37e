"""What is chosen by name: a new loss or schedule is one entry, and nothing else knows its name."""

import ast
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
from squares import write_squares

from finetune.config.batch_plan import BatchPlan
from finetune.config.settings import TrainConfig
from finetune.errors import UsageError
from finetune.losses import LOSSES, OPTIONS, LossKind, LossOption, build_loss
from finetune.losses.contrastive import ContrastiveLoss, contrastive_loss
from finetune.losses.loss import Loss
from finetune.optimization import schedules
from finetune.optimization.optimizers import OPTIMIZERS
from finetune.optimization.precisions import PRECISIONS
from finetune.ranges import Range
from finetune.training.train import train

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = {*LOSSES, *OPTIMIZERS, *schedules.SCHEDULES, *PRECISIONS} - {"auto"}


def compared_names(source: str) -> list[str]:
    """The registries' names that a file compares anything with."""
    return [
        node.value
        for compare in ast.walk(ast.parse(source))
        if isinstance(compare, ast.Compare)
        for operand in (compare.left, *compare.comparators)
        for node in ast.walk(operand)
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]


def test_nothing_asks_for_a_registrys_entry_by_name() -> None:
    files = [
        path for part in ("finetune", "clipsearch") for path in REPOSITORY.glob(f"{part}/**/*.py")
    ]
    assert len(files) > 100
    assert {path.name: found for path in files if (found := compared_names(path.read_text()))} == {}
    assert compared_names('a = b if config.loss == "contrastive" else c') == ["contrastive"]
    assert compared_names('assert name in ("fp32", "x")') == ["fp32"]


def test_names_are_known_without_torch() -> None:
    modules = ", ".join(
        ["finetune.config.settings", "finetune.training.checks", "finetune.losses"]
        + [f"finetune.optimization.{name}" for name in ("optimizers", "precisions", "schedules")]
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", LOSSES)
def test_an_entry_names_the_options_of_its_class(name: str) -> None:
    dual = Biased()
    loss = build_loss(name, dual, **{each: OPTIONS[each].unset for each in OPTIONS})
    bias = {"logit_bias"} if loss.needs_bias else set()
    assert {each.name for each in fields(loss)} == {*LOSSES[name].options} | bias
    assert dual.asked == loss.needs_bias


def test_an_option_of_a_schedule_is_a_setting_without_effect_on_the_others() -> None:
    taken = {option for kind in schedules.SCHEDULES.values() for option in kind.options}
    assert taken == set(schedules.SCHEDULE_OPTIONS)
    config = TrainConfig(manifest="m", model="tiny")
    given = {option: getattr(config, option) for option in taken}
    assert given == schedules.SCHEDULE_OPTIONS
    for name, kind in schedules.SCHEDULES.items():
        schedules.check_schedule(name, given)
        for option, value in given.items():
            if option in kind.options:
                schedules.check_schedule(name, {option: value + 1})
            else:
                words = rf"--{option} {value + 1} is for .*; leave it out with --schedule {name}"
                with pytest.raises(UsageError, match=words):
                    schedules.check_schedule(name, {option: value + 1})


class Biased:
    """A model that notes whether it was asked for a bias."""

    asked = False

    def ensure_logit_bias(self) -> torch.nn.Parameter:
        self.asked = True
        return torch.nn.Parameter(torch.tensor(-10.0))


def test_a_new_loss_and_schedule_train_without_a_word_elsewhere(
    tmp_path, no_export, monkeypatch
) -> None:
    clamped: list[float] = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class HalfLoss(Loss):
        label_smoothing: float = 0.0

        def __call__(self, image_embeds, text_embeds, logit_scale, positives):
            return contrastive_loss(image_embeds, text_embeds, logit_scale, positives) / 2

        def clamp(self, logit_scale) -> None:
            clamped.append(logit_scale.item())

    module = ModuleType("finetune.losses.half")
    monkeypatch.setattr(module, "HalfLoss", HalfLoss, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = LossKind(
        module.__name__,
        "HalfLoss",
        "nobody's",
        {"label_smoothing": LossOption(Range(least=0, below=1))},
    )
    with monkeypatch.context() as patch:
        patch.setitem(LOSSES, "half", kind)
        patch.setitem(
            schedules.SCHEDULES, "nothing", schedules.ScheduleKind(lambda schedule, step: 0.0)
        )
        config = TrainConfig(
            manifest=write_squares(tmp_path / "squares", train=12, val=4),
            model="tiny",
            out=tmp_path / "encoder",
            epochs=2,
            batch_size=6,
            warmup=0,
            eval_every="never",
            loss="half",
            schedule="nothing",
            threads=1,
        )
        result = train(config, quiet=True)
    assert result.steps == len(clamped) == 4
    assert [row["learning_rate"] for row in result.history] == [0.0] * 4
    assert ContrastiveLoss().needs_bias is False
    assert BatchPlan.CAPTIONS[0] == TrainConfig(manifest="m", model="tiny").captions
