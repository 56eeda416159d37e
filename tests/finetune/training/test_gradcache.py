"""GradCache against the large batch itself, and parts against parts."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from random_batch import assert_close, gradients, random_batch, small_dual
from torch.nn import functional as F

from finetune.data.tensors import TensorBatch
from finetune.data.world import even_slices
from finetune.losses import build_loss
from finetune.losses.contrastive import contrastive_loss
from finetune.models.dual_encoder import DualEncoder
from finetune.models.speed import enable_gradient_checkpointing
from finetune.training.gradients.backward import accumulated_backward, whole_backward
from finetune.training.gradients.gradcache import cached_backward


@pytest.mark.parametrize("loss", ["contrastive", "sigmoid"])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 11])
@pytest.mark.parametrize("texts", [12, 17])
def test_equals_the_large_batch(loss: str, chunk_size: int, texts: int) -> None:
    dual = small_dual()
    loss_of = build_loss(loss, dual)
    batch = random_batch(dual, 12, texts)
    expected_loss = whole_backward(dual, batch, loss_of)
    expected = gradients(dual)
    loss_value = cached_backward(dual, batch, loss_of, chunk_size)
    assert_close(gradients(dual), expected, 1e-5)
    torch.testing.assert_close(loss_value, expected_loss)
    assert not loss_value.requires_grad
    assert "model.logit_scale" in expected


class RecordedDropout:
    """Dropout whose masks of the chunks can be put together to those of the large batch.

    A call is known by its place within a forward pass; a tower's passes by the shape of its
    attention weights, float[rows, heads, t, t].
    """

    def __init__(self) -> None:
        self.masks: dict[tuple, list[torch.Tensor]] = {}
        self.seen: dict[tuple, int] = {}
        self.replay = False

    def record(self, weights, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return weights
        kind = tuple(weights.shape[1:])
        call = self.seen.get(kind, 0)
        self.seen[kind] = call + 1
        if self.replay:
            return weights * torch.cat(self.masks[kind, call % self.layers])
        mask = (torch.rand(weights.shape) >= p).to(weights.dtype) / (1 - p)
        # only the first pass over a chunk is without a graph
        if not torch.is_grad_enabled():
            self.masks.setdefault((kind, call % self.layers), []).append(mask)
        return weights * mask

    layers = 2


def test_with_dropout_equals_one_forward_pass_with_the_same_masks(monkeypatch) -> None:
    dual = small_dual(dropout=0.4, attention="eager")
    batch = random_batch(dual, 12)
    dropout = RecordedDropout()
    monkeypatch.setattr(F, "dropout", dropout.record)
    torch.manual_seed(3)
    loss = cached_backward(dual, batch, contrastive_loss, 5)
    found = gradients(dual)
    assert len(dropout.masks) == 4  # two layers of two towers
    assert all(len(masks) == 3 for masks in dropout.masks.values())

    dropout.replay, dropout.seen = True, {}
    expected_loss = whole_backward(dual, batch, contrastive_loss)
    torch.testing.assert_close(loss, expected_loss)
    assert_close(found, gradients(dual), 1e-5)


def chunks_in_one_graph(dual, batch, loss_of, chunk_size, dtype=torch.float32) -> torch.Tensor:
    """The large batch's loss with all activations held: what GradCache saves."""
    count = -(-len(batch.pixel_values) // chunk_size)
    device = dual.logit_scale.device.type
    # one cast of a weight for all chunks would add up its gradients in half precision
    with torch.autocast(device, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        images = torch.cat(
            [
                dual.embed_images(batch.pixel_values[r])
                for r in even_slices(len(batch.pixel_values), count)
            ]
        )
        count = -(-len(batch.input_ids) // chunk_size)
        texts = torch.cat(
            [
                dual.embed_texts(batch.input_ids[r], batch.attention_mask[r])
                for r in even_slices(len(batch.input_ids), count)
            ]
        )
    return loss_of(images, texts, dual.logit_scale, batch.positives)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_dropout_on_equals_the_large_batch(dtype: torch.dtype, checkpointing: bool) -> None:
    dual = small_dual(dropout=0.4)
    batch = random_batch(dual, 12)
    torch.manual_seed(3)
    loss = chunks_in_one_graph(dual, batch, contrastive_loss, 5, dtype)
    loss.backward()
    after = torch.get_rng_state()
    expected = gradients(dual)

    if checkpointing:
        enable_gradient_checkpointing(dual)
    torch.manual_seed(3)
    found = cached_backward(dual, batch, contrastive_loss, 5, dtype=dtype)
    torch.testing.assert_close(found, loss.detach())
    assert_close(gradients(dual), expected, 1e-5)
    # the next step's random numbers are those that follow one forward pass
    assert torch.equal(torch.get_rng_state(), after)

    # other masks are another gradient, so the test above can fail
    cached_backward(dual, batch, contrastive_loss, 5, dtype=dtype)
    with pytest.raises(AssertionError):
        assert_close(gradients(dual), expected, 1e-3)


def test_scaled_loss_gives_scaled_gradients() -> None:
    dual = small_dual()
    batch = random_batch(dual, 9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected_loss = whole_backward(dual, batch, contrastive_loss)
    expected = gradients(dual)
    for backward in (whole_backward, partial(cached_backward, chunk_size=4)):
        loss = backward(dual, batch, contrastive_loss, scaler=scaler)
        torch.testing.assert_close(loss, expected_loss)
        scaled = {name: gradient / 1024 for name, gradient in gradients(dual).items()}
        assert_close(scaled, expected, 1e-5)


def test_frozen_tower_gets_no_gradient_and_the_other_its_own() -> None:
    dual = small_dual(dropout=0.3)
    batch = random_batch(dual, 10)
    for name, parameter in dual.named_parameters():
        parameter.requires_grad = "text_" in name
    torch.manual_seed(1)
    chunks_in_one_graph(dual, batch, contrastive_loss, 4).backward()
    expected, after = gradients(dual), torch.get_rng_state()
    torch.manual_seed(1)
    cached_backward(dual, batch, contrastive_loss, 4)
    assert_close(gradients(dual), expected, 1e-5)
    assert all("text_" in name for name in expected)
    assert torch.equal(torch.get_rng_state(), after)


def peak_of_saved_tensors(run) -> int:
    """The most bytes that graphs held at any moment."""
    live = peak = 0

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal live, peak
            self.tensor = tensor
            size = tensor.numel() * tensor.element_size()
            live += size
            peak = max(peak, live)
            weakref.finalize(self, release, size)

    def release(size: int) -> None:
        nonlocal live
        live -= size

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        run()
    return peak


def test_memory_does_not_grow_with_the_batch() -> None:
    dual = small_dual()

    def peak(backward, size: int) -> int:
        batch = random_batch(dual, size)
        return peak_of_saved_tensors(lambda: backward(dual, batch, contrastive_loss))

    cached = partial(cached_backward, chunk_size=8)
    assert peak(cached, 96) < 1.05 * peak(cached, 24)
    assert peak(whole_backward, 96) > 3.5 * peak(whole_backward, 24)
    assert peak(whole_backward, 96) > 5 * peak(cached, 96)


def test_pixels_may_be_made_when_they_are_asked_for() -> None:
    dual = small_dual()
    batch = random_batch(dual, 10)

    asked: list[int] = []

    class Bytes:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, rows: slice) -> torch.Tensor:
            made = batch.pixel_values[rows]
            asked.append(len(made))
            return made

    whole_backward(dual, batch, contrastive_loss)
    expected = gradients(dual)
    cached_backward(dual, replace(batch, pixel_values=Bytes()), contrastive_loss, 4)
    assert_close(gradients(dual), expected, 1e-5)
    assert max(asked) == 4


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


def dual_and_batch(device: str) -> tuple[DualEncoder, TensorBatch]:
    dual = small_dual(dropout=0.4).to(device)
    batch = random_batch(dual, 12)
    tensors = ("pixel_values", "input_ids", "attention_mask", "positives")
    return dual, replace(batch, **{name: getattr(batch, name).to(device) for name in tensors})


def random_state(device: str) -> torch.Tensor:
    return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()


def in_one_graph(
    dual: DualEncoder, batch: TensorBatch, scaler: torch.amp.GradScaler, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    loss = chunks_in_one_graph(dual, batch, contrastive_loss, 5, dtype)
    scaler.scale(loss).backward()


def in_chunks(
    dual: DualEncoder, batch: TensorBatch, scaler: torch.amp.GradScaler, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    cached_backward(dual, batch, contrastive_loss, 5, scaler=scaler, dtype=dtype)


def scale_without_overflow(dual: DualEncoder, batch: TensorBatch, device: str) -> float:
    """What a scaler comes down to in fp16, as it halves its start scale; and a little less.

    At the start scale the gradients of this batch are infinite, with GradCache and without.
    """
    scale = 2.0**16
    while scale > 1:
        in_one_graph(dual, batch, torch.amp.GradScaler(device, init_scale=scale), torch.float16)
        if all(gradient.isfinite().all() for gradient in gradients(dual).values()):
            break
        scale /= 2
    return max(scale / 4, 1.0)


def assert_dropout_is_replayed(device: str, dtype: torch.dtype, tolerance: float) -> None:
    dual, batch = dual_and_batch(device)
    scale = scale_without_overflow(dual, batch, device) if dtype == torch.float16 else 1.0
    scaler = torch.amp.GradScaler(device, init_scale=scale, enabled=dtype == torch.float16)
    in_one_graph(dual, batch, scaler, dtype)
    expected, after = gradients(dual), random_state(device)
    assert all(gradient.isfinite().all() for gradient in expected.values())
    assert max(gradient.abs().max() for gradient in expected.values()) > 0
    in_chunks(dual, batch, scaler, dtype)
    assert_close(gradients(dual), expected, tolerance)
    assert torch.equal(random_state(device), after)


def test_in_fp16_dropout_is_replayed_too() -> None:
    assert_dropout_is_replayed("cpu", torch.float16, 1e-5)


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_the_gpu_dropout_is_replayed_too(dtype: torch.dtype) -> None:
    assert_dropout_is_replayed("cuda", dtype, 1e-5 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backward", [in_one_graph, in_chunks])
def test_an_overflow_in_fp16_skips_the_step(backward, device: str) -> None:
    dual, batch = dual_and_batch(device)
    optimizer = torch.optim.SGD(dual.parameters(), lr=1.0)

    def step(scale: float) -> tuple[bool, float]:
        """Whether anything changed, and the scale for the next step."""
        before = [parameter.detach().clone() for parameter in dual.parameters()]
        scaler = torch.amp.GradScaler(device, init_scale=scale)
        backward(dual, batch, scaler, torch.float16)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        pairs = zip(before, dual.parameters(), strict=True)
        return any(not torch.equal(old, new) for old, new in pairs), scaler.get_scale()

    assert step(2.0**40) == (False, 2.0**39)
    scale = scale_without_overflow(dual, batch, device)
    assert step(scale) == (True, scale), "the same batch at a scale that fits"


@pytest.mark.parametrize("parts", [1, 3, 4, 50])
def test_parts_are_the_mean_of_losses_without_shared_negatives(parts: int) -> None:
    dual = small_dual()
    batch = random_batch(dual, 10)
    pieces = even_slices(10, min(parts, 10))
    total = 0.0
    for rows in pieces:
        loss = contrastive_loss(
            dual.embed_images(batch.pixel_values[rows]),
            dual.embed_texts(batch.input_ids[rows], batch.attention_mask[rows]),
            dual.logit_scale,
            batch.positives[rows, rows],
        )
        total = total + loss * (rows.stop - rows.start) / 10
    total.backward()
    expected = gradients(dual)
    loss = accumulated_backward(dual, batch, contrastive_loss, parts)
    torch.testing.assert_close(loss, total.detach())
    assert_close(gradients(dual), expected, 1e-5)

    whole = whole_backward(dual, batch, contrastive_loss)
    assert torch.isclose(whole, loss).item() == (parts == 1)


def test_parts_need_one_text_an_image() -> None:
    dual = small_dual()
    with pytest.raises(ValueError, match="one text"):
        accumulated_backward(dual, random_batch(dual, 6, 9), contrastive_loss, 2)


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (2, 2), (7, 7), (1, 1), (3, 5)])
def test_shares_cover_everything_once(count: int, parts: int) -> None:
    found = even_slices(count, parts)
    lengths = [part.stop - part.start for part in found]
    assert [i for part in found for i in range(count)[part]] == list(range(count))
    assert len(found) == parts and max(lengths) - min(lengths) <= 1
