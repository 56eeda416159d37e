"""Texts of many requests, encoded together.

A tower does more texts a second in a batch than one by one, so that requests which come while it
is at work are joined into the next batch. Nobody waits for company: a single text is encoded at
once; nor for those whose turn comes later: each has its embedding when its part of a batch is done.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice

import numpy as np

from clipsearch.encoder.encoder import Encoder, ImageInput
from clipsearch.server.metrics import Metrics
from clipsearch.server.problems import OverloadedError
from finetune.arrays import Float32, Pixels
from finetune.several import check_several

LARGEST_BATCH = 64
# Texts of like length go through the tower together, so that few positions are padding.
_TEXTS_AT_ONCE = 8
_IMAGES_AT_ONCE = 32
_IMAGE_WORK_AT_ONCE = 2


class TextBatcher:
    """Joins texts that wait into batches, which one thread encodes. Safe between threads."""

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Iterator[tuple[Sequence[int], Float32]]],
        metrics: Metrics,
        most_waiting: int,
    ) -> None:
        """`encode` is given texts, all different, and yields places of some with float32[n, d]."""
        self._encode = encode
        self._metrics = metrics
        self._most_waiting = most_waiting
        self._waiting: OrderedDict[str, Future[Float32]] = OrderedDict()
        self._change = threading.Condition()
        threading.Thread(target=self._run, name="clipsearch-texts", daemon=True).start()

    def embed(self, texts: Sequence[str]) -> Float32:
        """Return float32[n, d]. Raises OverloadedError where too many wait already."""
        with self._change:
            new = {text for text in texts if text not in self._waiting}
            if len(self._waiting) + len(new) > self._most_waiting:
                raise OverloadedError(
                    f"{len(self._waiting):,} texts wait for the encoder already; ask again later"
                )
            found = [self._waiting.setdefault(text, Future()) for text in texts]
            self._change.notify()
        return np.stack([each.result() for each in found])

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting:
                    self._change.wait()
                size = min(len(self._waiting), LARGEST_BATCH)
                batch = [self._waiting.popitem(last=False) for _ in range(size)]
            self._metrics.batch(size)
            try:
                for places, embeddings in self._encode([text for text, _ in batch]):
                    for place, embedding in zip(places, embeddings, strict=True):
                        batch[place][1].set_result(embedding)
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)


class BatchingEncoder(Encoder):
    """An encoder whose texts are joined over all threads, and whose time is measured."""

    def __init__(self, loaded: Encoder, metrics: Metrics, most_waiting: int) -> None:
        """Encode as `loaded` does; see `TextBatcher` for the rest."""
        super().__init__(loaded.folder, loaded.description, loaded.towers)
        self._metrics = metrics
        self._batcher = TextBatcher(self._encode_batch, metrics, most_waiting)
        # Each keeps all cores busy, and its pixels in memory.
        self._turn = threading.BoundedSemaphore(_IMAGE_WORK_AT_ONCE)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = LARGEST_BATCH) -> Float32:
        """See `Encoder.encode_texts`. Raises OverloadedError where too many wait already."""
        check_several(texts, "encode_texts")
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        return self._batcher.embed(texts)

    def encode_images(
        self, images: Iterable[ImageInput], *, batch_size: int = _IMAGES_AT_ONCE
    ) -> Float32:
        """See `Encoder.encode_images`."""
        remaining = iter(images)
        batches = []
        while batch := list(islice(remaining, batch_size)):
            with self._turn, self._metrics.stage("decode"):
                pixels = np.stack([self._pixels(image) for image in batch])
            batches.append(self.encode_pixels(pixels))
        return np.concatenate(batches) if batches else np.empty((0, self.dimension), np.float32)

    def encode_pixels(self, pixels: Pixels) -> Float32:
        """See `Encoder.encode_pixels`."""
        with self._turn, self._metrics.stage("encode"):
            return super().encode_pixels(pixels)

    def encode_patches(self, pixels: Pixels) -> Float32:
        """See `Encoder.encode_patches`."""
        with self._turn, self._metrics.stage("encode"):
            return super().encode_patches(pixels)

    def _encode_batch(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[int], Float32]]:
        with self._metrics.stage("encode"):
            yield from super().encoded_batches(texts, _TEXTS_AT_ONCE)
