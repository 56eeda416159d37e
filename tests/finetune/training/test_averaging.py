"""The moving average of the weights, and weights between two models: against written-out sums."""

import copy

import pytest
import torch
from random_batch import random_batch, small_dual
from tiny_checkpoints import save_clip

from finetune.errors import TrainingError, UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder, load_dual_encoder
from finetune.models.freezing import freeze
from finetune.models.wise_ft import interpolate_with_base, interpolated
from finetune.training.ema import MovingAverage
from finetune.training.gradients.backward import whole_backward


def values(dual: DualEncoder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in dual.named_parameters()}


def steps(dual: DualEncoder, average: MovingAverage, count: int) -> list[dict[str, torch.Tensor]]:
    """Train, average, and return the weights after each step."""
    optimizer = torch.optim.SGD([p for p in dual.parameters() if p.requires_grad], lr=1.0)
    seen = []
    for number in range(count):
        whole_backward(dual, random_batch(dual, 5 + number), contrastive_loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update()
        seen.append(values(dual))
    return seen


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_the_average_written_out(decay: float) -> None:
    dual = small_dual()
    expected = {name: value.double() for name, value in values(dual).items()}
    average = MovingAverage(dual, decay)
    seen = steps(dual, average, 6)
    for number, weights in enumerate(seen):
        d = min(decay, (1 + number) / (10 + number))
        for name, value in weights.items():
            expected[name] = d * expected[name] + (1 - d) * value.double()
    with average.applied():
        for name, value in values(dual).items():
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)


def test_the_weights_come_back_after_an_evaluation_and_an_error() -> None:
    dual = small_dual()
    average = MovingAverage(dual, 0.9)
    last = steps(dual, average, 3)[-1]
    with pytest.raises(ZeroDivisionError), average.applied():
        assert any(not torch.equal(value, last[name]) for name, value in values(dual).items())
        raise ZeroDivisionError
    for name, value in values(dual).items():
        assert torch.equal(value, last[name]), name


def test_a_resumed_average_goes_on_to_the_same_bits(tmp_path) -> None:
    whole = small_dual()
    average = MovingAverage(whole, 0.9)
    steps(whole, average, 3)
    half = copy.deepcopy(whole)
    torch.save(average.state_dict(), tmp_path / "state")
    resumed = MovingAverage(half, 0.9)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    steps(whole, average, 2)
    steps(half, resumed, 2)
    average.copy_to_model()
    resumed.copy_to_model()
    assert average.steps == resumed.steps == 5
    for name, value in values(whole).items():
        assert torch.equal(values(half)[name], value), name


def test_an_average_of_other_parameters_is_refused() -> None:
    whole, half = small_dual(), small_dual()
    freeze(half, ["image"])
    with pytest.raises(TrainingError, match=r"of other parameters \(model\.vision.* --restart"):
        MovingAverage(half, 0.9).load_state_dict(MovingAverage(whole, 0.9).state_dict())


def test_frozen_weights_take_no_memory() -> None:
    dual = small_dual()
    freeze(dual, ["image"])
    averages = MovingAverage(dual, 0.9).state_dict()["averages"]
    assert not any("vision_model" in name for name in averages)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_cannot_be(decay: float) -> None:
    with pytest.raises(UsageError, match="--ema must be above 0 and below 1"):
        MovingAverage(small_dual(), decay)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_weights_between_two_models_written_out(tmp_path, alpha: float) -> None:
    save_clip(tmp_path / "base", seed=1)
    save_clip(tmp_path / "tuned", seed=2)
    base, tuned = load_dual_encoder(tmp_path / "base"), load_dual_encoder(tmp_path / "tuned")
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    interpolate_with_base(tuned, base, alpha)
    for name, found in tuned.model.state_dict().items():
        b, t = base.model.state_dict()[name], before[name]
        if alpha in (0, 1):
            assert torch.equal(found, t if alpha else b), name
        else:
            expected = (1 - alpha) * b.double() + alpha * t.double()
            torch.testing.assert_close(found.double(), expected, atol=1e-7, rtol=1e-6)


def test_whole_numbers_and_precision_are_the_fine_tuned_ones() -> None:
    base = {"w": torch.ones(2, dtype=torch.float16), "n": torch.tensor([3])}
    tuned = {"w": torch.zeros(2), "n": torch.tensor([5])}
    found = interpolated(base, tuned, 0.5)
    assert found["w"].dtype == torch.float32
    assert found["w"].tolist() == [0.5, 0.5]
    assert found["n"].tolist() == [5]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"w": torch.zeros(3)}, r"w is \[3\] in the base model, but \[2\]"),
        ({"v": torch.zeros(2)}, r"different tensors \(2, the first v\)"),
        ({}, r"different tensors \(1, the first w\)"),
    ],
)
def test_a_base_that_does_not_fit(base: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interpolated(base, {"w": torch.zeros(2)}, 0.5)


def test_a_base_with_another_vocabulary(tmp_path) -> None:
    save_clip(tmp_path / "base")
    base, tuned = load_dual_encoder(tmp_path / "base"), load_dual_encoder(tmp_path / "base")
    base.tokenizer.add_tokens(["zebra"])
    with pytest.raises(UsageError, match="has another vocabulary than the fine-tuned model"):
        interpolate_with_base(tuned, base, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_that_cannot_be(alpha: float) -> None:
    with pytest.raises(UsageError, match="--wise-ft must be 0"):
        interpolated({}, {}, alpha)
