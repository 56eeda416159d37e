"""Batches on their way to a GPU while it computes: sent by one thread, received by another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from finetune.data.tensors import TensorBatch


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch whose copies to the device, and what is computed of them there, may be under way.

    Attributes:
        batch: Not to be read before `Transfer.receive`.
        arrived: None on the CPU, where nothing is on its way.
    """

    batch: TensorBatch
    arrived: torch.cuda.Event | None


class Transfer:
    """Sends batches on a stream of its own, beside that of the step.

    On the stream of the step a copy would wait for all the work that is queued there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, make: Callable[[], TensorBatch]) -> Sent:
        """Make a batch from pinned memory, without waiting for the device to have it."""
        if self._stream is None:
            return Sent(make(), None)
        with torch.cuda.stream(self._stream):
            batch = make()
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)
        return Sent(batch, arrived)

    def receive(self, sent: Sent) -> TensorBatch:
        """Return the batch, for work that is queued from now on; the host does not wait."""
        if sent.arrived is not None:
            own = torch.cuda.current_stream(self._device)
            own.wait_event(sent.arrived)
            for tensor in sent.batch.tensors():
                # Else its memory would serve the next batch while this one is still read.
                tensor.record_stream(own)
        return sent.batch


def received(transfer: Transfer, sent: Iterator[Sent]) -> Iterator[TensorBatch]:
    """Yield each batch as it is received."""
    for each in sent:
        yield transfer.receive(each)
