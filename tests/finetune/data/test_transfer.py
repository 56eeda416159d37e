from types import SimpleNamespace

import pytest
import torch
from random_batch import random_batch, small_dual

from finetune.data.tensors import TensorBatch
from finetune.data.transfer import Transfer, received

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def batch() -> TensorBatch:
    return random_batch(small_dual(), 6)


def test_on_the_cpu_batches_come_as_they_were_made() -> None:
    transfer = Transfer(torch.device("cpu"))
    made = [batch(), batch()]
    sent = (transfer.send(lambda each=each: each) for each in made)
    assert list(received(transfer, sent)) == made


class Cuda:
    """Stands for torch.cuda: writes down what happens in which order, on which stream."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on = "step"

    def Stream(self, device):  # noqa: N802  (torch's name)
        return SimpleNamespace(name="copies")

    def Event(self):  # noqa: N802  (torch's name)
        return SimpleNamespace(record=lambda stream: self.told.append(f"event on {stream.name}"))

    def stream(self, stream):
        cuda = self

        class On:
            def __enter__(self):
                cuda.on = stream.name

            def __exit__(self, *_):
                cuda.on = "step"

        return On()

    def current_stream(self, device):
        return SimpleNamespace(wait_event=lambda event: self.told.append(f"{self.on} waits"))


def test_a_gpu_gets_them_on_another_stream_which_the_step_waits_for(monkeypatch) -> None:
    cuda = Cuda()
    for name in ("Stream", "Event", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    recorded: list[torch.Tensor] = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: recorded.append(self), raising=False
    )
    transfer = Transfer(torch.device("cuda"))
    made = batch()

    def make() -> TensorBatch:
        cuda.told.append(f"made on {cuda.on}")
        return made

    sent = transfer.send(make)
    assert cuda.told == ["made on copies", "event on copies"]
    assert transfer.receive(sent) is made
    assert cuda.told[2:] == ["step waits"]
    # the memory of each is kept until the step is done with it
    assert {tensor.data_ptr() for tensor in recorded} == {
        getattr(made, name).data_ptr()
        for name in ("pixel_values", "input_ids", "attention_mask", "positives")
    }


@NEEDS_GPU
def test_on_the_gpu_batches_arrive_whole() -> None:
    device = torch.device("cuda")
    transfer = Transfer(device)
    expected = batch()

    def make() -> TensorBatch:
        return TensorBatch(
            *(
                getattr(expected, name).pin_memory().to(device, non_blocking=True)
                for name in ("pixel_values", "input_ids", "attention_mask", "positives")
            )
        )

    for got in received(transfer, (transfer.send(make) for _ in range(50))):
        assert torch.equal(got.pixel_values.cpu(), expected.pixel_values)
        assert torch.equal(got.positives.cpu(), expected.positives)
