"""From a manifest to batches of tensors on the device."""

import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from finetune.batches import (
    Batch,
    TokenizedCaptions,
    epoch_batches,
    positives,
    steps_per_epoch,
    tokenized,
)
from finetune.config import TrainConfig
from finetune.dataset import CaptionedImages, Int64, captioned_images, read_split
from finetune.decoding import Decoder, Pixels
from finetune.encoder_folder import Preprocessing
from finetune.errors import ManifestError, UsageError
from finetune.manifest import Manifest
from finetune.model import DualEncoder
from finetune.pixels import PixelStore, load_all
from finetune.progress import Progress

TOKENIZE_AT_ONCE = 10_000
BATCHES_AHEAD = 3

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Splits:
    """What is trained on and what is evaluated on; `val` is empty where nothing is evaluated."""

    train: CaptionedImages
    val: CaptionedImages

    def check(self, config: TrainConfig, unreadable: Collection[str] = ()) -> None:
        """Raise UsageError where a split is too small for what is asked.

        `unreadable` are the reasons why pictures are missing, for the message.
        """
        missing = ""
        if unreadable:
            first = next(iter(unreadable))
            missing = f" ({len(unreadable):,} pictures cannot be read, the first: {first})"
        if config.batch_size > len(self.train):
            raise UsageError(
                f"--batch-size {config.batch_size} is more than the {len(self.train):,} images"
                f" of the split train{missing}; give at most {len(self.train)}, or more images"
            )
        if config.evaluates and len(self.val) < 2:
            raise UsageError(
                f"{config.manifest}: the split val has {len(self.val)} images{missing}, too few"
                f" to evaluate on; mark some rows val in a column split, or give"
                f" --eval-every never"
            )


def read_splits(config: TrainConfig, manifest: Manifest) -> Splits:
    """The captioned images of the manifest's train and val splits, checked."""
    manifest.check_trainable()
    nothing = captioned_images([])
    splits = Splits(
        read_split(manifest, "train"), read_split(manifest, "val") if config.evaluates else nothing
    )
    splits.check(config)
    return splits


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """One step's tensors on the device.

    Attributes:
        pixel_values: float32[b, 3, h, w].
        input_ids, attention_mask: int64[b, t].
        positives: bool[b, b], true where the text (column) describes the image (row).
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    positives: torch.Tensor


class Normalizer:
    """uint8[b, h, w, 3] to float32[b, 3, h, w] on the device, as `finetune.images.normalize`."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        std = np.array(preprocessing.std)
        scale, shift = 1 / (255 * std), np.array(preprocessing.mean) / std
        self.device = device
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)[:, None, None]
        self._shift = torch.tensor(shift, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """Move and normalise; a quarter of the bytes move that floats would need."""
        moved = to_device(pixels, self.device).permute(0, 3, 1, 2)
        return moved.contiguous().float().mul_(self._scale).sub_(self._shift)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that the loop reads.

    Attributes:
        splits: Readable images only.
        pixels: Of the images of train, then those of val.
        train_tokens, val_tokens: Of all captions of a split.
        batch_size, seed: Of the configuration.
        normalizer: Puts pixels on the device.
    """

    splits: Splits
    pixels: PixelStore
    train_tokens: TokenizedCaptions
    val_tokens: TokenizedCaptions
    batch_size: int
    seed: int
    normalizer: Normalizer

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(len(self.splits.train), self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Changes where ids, captions or their order do."""
        return self.splits.train.fingerprint() + self.splits.val.fingerprint()

    def ids(self, step: int) -> tuple[str, ...]:
        """The ids of the images in a step's batch."""
        batch = next(self._batches(step, step + 1))
        return tuple(self.splits.train.ids[i] for i in batch.images)

    def tensors(self, first: int, end: int) -> Generator[TensorBatch, None, None]:
        """The batches of the steps first, first + 1, … end - 1."""
        prepared = self._prepared(first, end)
        if self.normalizer.device.type != "cpu":
            # Gathering the next pixels takes turns with queueing work for the device.
            prepared = ahead(prepared, BATCHES_AHEAD)
        for pixels, ids, mask, positive in prepared:
            device = self.normalizer.device
            yield TensorBatch(
                self.normalizer(pixels),
                to_device(ids, device),
                to_device(mask, device),
                to_device(positive, device),
            )

    def _prepared(
        self, first: int, end: int
    ) -> Iterator[tuple[Pixels, Int64, Int64, npt.NDArray[np.bool_]]]:
        batches, looked_ahead = tee(self._batches(first, end))
        pixels = self.pixels.batches(batch.images for batch in looked_ahead)
        for batch, chosen in zip(batches, pixels, strict=True):
            ids, mask = self.train_tokens.padded(batch.captions)
            yield chosen, ids, mask, positives(self.splits.train, batch)

    def _batches(self, first: int, end: int) -> Iterator[Batch]:
        step = first
        while step < end:
            epoch, position = divmod(step, self.steps_per_epoch)
            batches = epoch_batches(self.splits.train, self.batch_size, seed=self.seed, epoch=epoch)
            for batch in batches[position : position + end - step]:
                yield batch
                step += 1


def load_training_data(
    config: TrainConfig,
    manifest: Manifest,
    splits: Splits,
    dual: DualEncoder,
    decoder: Decoder,
    device: torch.device,
    progress: Callable[[str, int], Progress],
) -> TrainingData:
    """Decode every picture, leave the unreadable ones out, and tokenise every caption once.

    Unreadable pictures are added to the manifest's problems. Raises ManifestError for the first
    with --strict, and UsageError where too few images are left.
    """
    sources = splits.train.sources + splits.val.sources
    with progress("Reading pictures", len(sources)) as shown:
        loaded = load_all(
            decoder,
            sources,
            cache=config.cache_images,
            spill=config.work_folder / "pixels.uint8",
            progress=shown,
        )
    ids = splits.train.ids + splits.val.ids
    for i, reason in loaded.reasons.items():
        manifest.problems.add("unreadable image", ids[i], reason)
    if config.strict and loaded.reasons:
        first = next(iter(loaded.reasons.values()))
        raise ManifestError(
            f"{manifest.path}: {len(loaded.reasons):,} pictures cannot be read (strict);"
            f" the first: {first}"
        )
    count = len(splits.train)
    readable = Splits(
        splits.train.without(i for i in loaded.reasons if i < count),
        splits.val.without(i - count for i in loaded.reasons if i >= count),
    )
    readable.check(config, loaded.reasons.values())
    return TrainingData(
        readable,
        loaded.store,
        tokenize(dual, readable.train.captions),
        tokenize(dual, readable.val.captions),
        config.batch_size,
        config.seed,
        Normalizer(dual.preprocessing, device),
    )


def tokenize(dual: DualEncoder, captions: tuple[str, ...]) -> TokenizedCaptions:
    """Token ids of all captions, cut at the model's limit."""
    rows: list[list[int]] = []
    for start in range(0, len(captions), TOKENIZE_AT_ONCE):
        part = list(captions[start : start + TOKENIZE_AT_ONCE])
        rows += dual.tokenizer(part, truncation=True, max_length=dual.max_tokens)["input_ids"]
    return tokenized(
        rows,
        pad_token_id=dual.pad_token_id,
        pad_to=dual.max_tokens if dual.pad_to_max else None,
    )


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """A tensor on the device; the copy to a GPU does not wait for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made up to `depth` ahead in a thread; errors come through in their place."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
            put(None, None)
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
