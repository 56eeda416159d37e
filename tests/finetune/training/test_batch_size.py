"""The finder against made-up limits, and against what real steps take."""

import pytest
import torch
from random_batch import random_batch, small_dual

from finetune.errors import UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.training import batch_size
from finetune.training.batch_size import (
    cpu_peak,
    find_batch_size,
    largest_batch,
    made_up_batch,
    process_memory,
)
from finetune.training.gradients.backward import whole_backward

MEGABYTE = 1 << 20


class FakeMemory:
    """A step takes `fixed` and `each` an item; above `limit` there is an error, as on a GPU."""

    def __init__(self, limit: int, fixed: int = 0, each: int = 10, square: float = 0.0) -> None:
        self.limit, self.fixed, self.each, self.square = limit, fixed, each, square
        self.tried: list[int] = []

    def needed(self, size: int) -> int:
        return self.fixed + self.each * size + int(self.square * size * size)

    def peak(self, size: int) -> int:
        self.tried.append(size)
        if self.needed(size) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.needed(size)


@pytest.mark.parametrize("limit", [10, 25, 97, 1000, 12345])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fixed", [0, 600])
def test_finds_the_limit_to_an_eighth(limit: int, known: bool, fixed: int) -> None:
    """Whether it is known beforehand or only the error of a full memory says so."""
    memory = FakeMemory(limit + fixed, fixed)
    limit_said = memory.limit if known else 1 << 60
    found = largest_batch(memory.peak, limit_said, 10**6, fixed)
    true = limit // 10
    assert found <= true
    assert found >= true * 7 / 8 - 1
    assert len(memory.tried) < 2 * true.bit_length() + 5


def test_never_tries_more_than_a_line_says_will_fit() -> None:
    memory = FakeMemory(10_000, fixed=500, each=7)
    largest_batch(memory.peak, memory.limit, 10**6, fixed=500)
    assert all(memory.needed(size) <= memory.limit for size in memory.tried)


def test_memory_that_grows_faster_than_a_line_is_found_by_its_error() -> None:
    memory = FakeMemory(10_000, each=1, square=0.5)
    found = largest_batch(memory.peak, memory.limit, 10**6)
    assert memory.needed(found) <= memory.limit
    assert memory.needed(int(found * 1.2)) > memory.limit


@pytest.mark.parametrize("largest", [1, 3, 48, 100])
def test_stops_at_the_largest_that_is_asked_for(largest: int) -> None:
    memory = FakeMemory(10**9)
    assert largest_batch(memory.peak, memory.limit, largest) == largest
    assert max(memory.tried) == largest


def test_nothing_fits() -> None:
    with pytest.raises(UsageError, match="not even one picture and text fit in 5 MB"):
        largest_batch(FakeMemory(3).peak, 5 * MEGABYTE, 64)


def test_a_step_that_fails_for_another_reason_is_not_hidden() -> None:
    def broken(size: int) -> int:
        raise RuntimeError("expected scalar type Half")

    with pytest.raises(RuntimeError, match="Half"):
        largest_batch(broken, 1000, 64)


def test_measures_what_a_step_takes() -> None:
    def step(size: int) -> None:
        torch.ones(size * MEGABYTE, dtype=torch.uint8)

    step(300)
    for size in (300, 100):
        taken = cpu_peak(process_memory("VmRSS"), step, size) / MEGABYTE
        assert size * 0.9 < taken < size * 1.1 + 10


def test_finds_a_batch_for_a_model_and_leaves_it_as_it_was(monkeypatch) -> None:
    dual = small_dual(dropout=0.2)
    batch = random_batch(dual, 4)
    weights = {name: p.detach().clone() for name, p in dual.named_parameters()}
    tried: list[int] = []

    def backward(batch) -> None:
        tried.append(len(batch.pixel_values))
        whole_backward(dual, batch, contrastive_loss)

    # what libraries keep from their first use on is more than this small model takes
    backward(made_up_batch(dual, 64))
    dual.zero_grad()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    start = process_memory("VmRSS")

    def found(limit: int, **options) -> int:
        # of which the process holds a part already
        left = lambda: limit - (process_memory("VmRSS") - start)  # noqa: E731
        monkeypatch.setattr(batch_size, "available_memory", left)
        return find_batch_size(dual, backward, largest=4096, **options)

    small, large = found(120 * MEGABYTE), found(360 * MEGABYTE)
    assert 8 <= small < large < 4096
    assert 2 <= large / small < 5
    assert max(tried) < 4096
    assert found(360 * MEGABYTE, reserved=200 * MEGABYTE) < 0.7 * large
    assert torch.equal(torch.get_rng_state(), state)
    # within the limit when it is run
    step = lambda size: backward(made_up_batch(dual, size))  # noqa: E731
    assert cpu_peak(start, step, small) < 120 * MEGABYTE

    dual.zero_grad()
    assert all(torch.equal(p, weights[name]) for name, p in dual.named_parameters())
    assert whole_backward(dual, batch, contrastive_loss).isfinite()


def test_made_up_batches_have_the_longest_texts() -> None:
    dual = small_dual()
    batch = made_up_batch(dual, 3)
    assert batch.input_ids.shape == (3, dual.max_tokens)
    assert (batch.input_ids != dual.pad_token_id).sum(dim=1).min() >= dual.max_tokens - 1
    assert batch.attention_mask is None  # CLIP needs none
    assert batch.pixel_values.shape == (3, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu_a_full_memory_is_found_and_got_over() -> None:
    dual = small_dual().cuda()

    def backward(batch) -> None:
        whole_backward(dual, batch, contrastive_loss)

    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        found = find_batch_size(dual, backward, largest=1 << 20)
        backward(made_up_batch(dual, found))
        with pytest.raises(torch.OutOfMemoryError):
            backward(made_up_batch(dual, 4 * found))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
