"""From images and captions to batches of tensors on the device."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee

import numpy as np
import numpy.typing as npt
import torch

from finetune.arrays import Int64, Pixels
from finetune.config.batch_plan import BatchPlan
from finetune.config.caption_augmentation import CaptionAugmentConfig, augment_captions
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.run_parts import Loading
from finetune.console import Progress
from finetune.data.back_translation import add_captions
from finetune.data.batches import Batch, epoch_batches, positives
from finetune.data.captioned_images import CaptionedImages, caption_keys, joined_keys
from finetune.data.cropped_pixels import CroppedPixels
from finetune.data.hard_negatives import Int32
from finetune.data.joint_pixels import load_jointly, reads_jointly
from finetune.data.pixel_store import LoadedPixels, PixelStore, load_all
from finetune.data.splits import Splits
from finetune.data.tensors import Normalizer, PixelsOnDevice, TensorBatch, Vary, to_device
from finetune.data.tokenized_captions import TokenizedCaptions
from finetune.data.tokens import tokenize
from finetune.data.transfer import Sent, Transfer, received
from finetune.data.world import World, even_slices
from finetune.errors import ManifestError, UsageError
from finetune.images.decode_workers import Decoder
from finetune.manifest.cut_captions import cut_sentence
from finetune.manifest.problems import OWN_RANGE, Problems
from finetune.models.dual_encoder import DualEncoder
from finetune.read_ahead import read_ahead

BATCHES_AHEAD = 3
# A text batch's ids and mask, int64[b, t], as `DualEncoder.mask_on_host` reads them.
MaskOnHost = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]
# From a step and its number of images to what varies these rows of them.
VaryStep = Callable[[int, int], Callable[[torch.Tensor, Int64], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class CaptionVariations:
    """Training captions as they are shown in an epoch, tokenised when they are needed."""

    captions: tuple[str, ...]
    config: CaptionAugmentConfig
    seed: int
    dual: DualEncoder

    def shown(self, captions: Int64, epoch: int) -> list[str]:
        """Return the texts of these captions in an epoch."""
        return augment_captions(self.captions, captions, self.config, seed=self.seed, epoch=epoch)

    def tokenized(self, shown: Sequence[str]) -> TokenizedCaptions:
        """Return the texts' tokens."""
        return tokenize(self.dual, tuple(shown))


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that the loop reads.

    Attributes:
        splits: Readable images only.
        pixels: Of the images of train, then those of val.
        train_tokens, val_tokens: Of all captions of a split.
        plan: How an epoch's batches are made.
        parts: Separate batches of a step; the processes share each of them.
        normalizer: Puts pixels on the device.
        mask_on_host: What becomes of the texts' mask before it is sent.
        world: The processes that share each batch.
        is_whole: Whether a step takes all its images at once. On a GPU they then become floats,
            and are varied, beside the step before; in chunks that would take too much memory.
        vary: From a step and its number of images to what varies its images; None changes
            none.
        cropped: Gives the training images of each step where they are cropped before they are
            resized; `pixels` are then those of whole ones.
        caption_variations: None shows captions as they are.
        notes: Sentences for the user about the captions.
    """

    splits: Splits
    pixels: PixelStore
    train_tokens: TokenizedCaptions
    val_tokens: TokenizedCaptions
    plan: BatchPlan
    parts: int
    normalizer: Normalizer
    mask_on_host: MaskOnHost
    world: World
    is_whole: bool = True
    vary: VaryStep | None = None
    cropped: CroppedPixels | None = None
    caption_variations: CaptionVariations | None = None
    notes: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.plan.steps_per_epoch(self.splits.train)

    @property
    def fingerprint(self) -> str:
        """Changes where ids, captions or their order do."""
        return self.splits.train.fingerprint() + self.splits.val.fingerprint()

    def ids(self, step: int, neighbours: Int32 | None = None) -> tuple[str, ...]:
        """Return the ids of the images in a step's batch."""
        batch = next(self._batches(step, step + 1, neighbours))
        return tuple(self.splits.train.ids[i] for i in batch.images)

    def tensors(
        self, first: int, end: int, neighbours: Int32 | None = None
    ) -> Generator[TensorBatch, None, None]:
        """Yield the batches of the steps first, first + 1, … end - 1: this process's share of each.

        `neighbours` are those of one epoch, in which all the steps then have to lie.
        """
        transfer = Transfer(self.normalizer.device)
        sent = self._sent(transfer, first, end, neighbours)
        if self.normalizer.device.type == "cpu":
            yield from received(transfer, sent)
        else:
            with closing(read_ahead(sent, BATCHES_AHEAD)) as ahead:
                yield from received(transfer, ahead)

    def _sent(
        self, transfer: Transfer, first: int, end: int, neighbours: Int32 | None
    ) -> Iterator[Sent]:
        prepared = self._prepared(first, end, neighbours)
        for step, arrays in zip(range(first, end), prepared, strict=True):
            yield transfer.send(partial(self._on_device, step, *arrays))

    def _on_device(
        self,
        step: int,
        pixels: Pixels,
        ids: Int64,
        mask: Int64,
        positive: npt.NDArray[np.bool_],
    ) -> TensorBatch:
        device = self.normalizer.device
        made = self.mask_on_host(torch.from_numpy(ids), torch.from_numpy(mask))
        moved = PixelsOnDevice(
            self.normalizer.moved(pixels), self.normalizer, self._vary(step, len(positive))
        )
        return TensorBatch(
            moved[:] if self.is_whole and device.type != "cpu" else moved,
            to_device(ids, device),
            None if made is None else to_device(made, device),
            to_device(positive, device),
        )

    def _vary(self, step: int, count: int) -> Vary | None:
        """Of this process's share of the `count` images of a step."""
        if self.vary is None:
            return None
        vary, own = self.vary(step, count), self.own(count)
        return lambda pixels, rows: vary(pixels, own[rows])

    def own(self, count: int) -> Int64:
        """Return which of a step's `count` pairs are this process's, part after part."""
        share = self.world.share
        rows = np.arange(count, dtype=np.int64)
        return np.concatenate(
            [
                rows[part][share(len(rows[part]))]
                for part in even_slices(count, min(self.parts, count))
            ]
        )

    def _prepared(
        self, first: int, end: int, neighbours: Int32 | None
    ) -> Iterator[tuple[Pixels, Int64, Int64, npt.NDArray[np.bool_]]]:
        batches, looked_ahead = tee(self._batches(first, end, neighbours))
        pixels = self._pixels(first, looked_ahead)
        for step, (batch, chosen) in enumerate(zip(batches, pixels, strict=True), first):
            own = self.own(len(batch))
            matches = positives(self.splits.train, batch)
            if self.caption_variations is None:
                ids, mask = self.train_tokens.padded(batch.captions[own])
            else:
                epoch = step // self.steps_per_epoch
                shown = self.caption_variations.shown(batch.captions, epoch)
                tokens = self.caption_variations.tokenized(shown)
                ids, mask = tokens.padded(own)
                matches = joined_columns(matches, joined_keys(caption_keys(shown), tokens.keys()))
            yield chosen, ids, mask, matches

    def _pixels(self, first: int, batches: Iterable[Batch]) -> Iterator[Pixels]:
        """Yield this process's share of each step's batch, from step `first` on."""
        if self.cropped is not None:
            steps = ((batch.images, self.own(len(batch))) for batch in batches)
            return self.cropped.batches(first, steps)
        return self.pixels.batches(batch.images[self.own(len(batch))] for batch in batches)

    def _batches(self, first: int, end: int, neighbours: Int32 | None) -> Iterator[Batch]:
        step = first
        while step < end:
            epoch, position = divmod(step, self.steps_per_epoch)
            batches = epoch_batches(self.splits.train, self.plan, epoch, neighbours)
            for batch in batches[position : position + end - step]:
                yield batch
                step += 1


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where the loop's data come from.

    Attributes:
        splits: Of the manifests.
        problems: Unreadable images are added to them.
        new_captions, duplicates_only: Of training captions, see
            `finetune.data.back_translation.add_captions`.
    """

    splits: Splits
    problems: Problems
    new_captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    duplicates_only: bool = False


def load_training_data(
    loading: Loading,
    source: DataSource,
    dual: DualEncoder,
    decoder: Decoder,
    world: World,
    progress: Callable[[str, int], Progress],
) -> TrainingData:
    """Decode every image, leave the unreadable ones out, and tokenise every caption once.

    Raises ManifestError for the first unreadable image with --strict, and UsageError where too
    few images are left.
    """
    splits = source.splits
    sources = splits.train.sources + splits.val.sources
    read: Callable[..., LoadedPixels] = load_all
    total = len(sources)
    if reads_jointly(world, loading.cache):
        read, total = partial(load_jointly, world=world), len(range(total)[world.share(total)])
    with progress("Reading images", total) as shown:
        loaded = read(
            decoder,
            sources,
            cache=loading.cache,
            spill=loading.spill,
            progress=shown,
        )
    ids = splits.train.ids + splits.val.ids
    for i, reason in loaded.reasons.items():
        source.problems.add("unreadable image", ids[i], reason)
    for i, note in loaded.notes.items():
        source.problems.note(OWN_RANGE, ids[i], note)
    if loading.strict and loaded.reasons:
        first = next(iter(loaded.reasons.values()))
        raise ManifestError(
            f"{splits.manifest}: {len(loaded.reasons):,} images cannot be read (strict);"
            f" the first: {first}"
        )
    count = len(splits.train)
    readable = splits.without(
        [i for i in loaded.reasons if i < count],
        [i - count for i in loaded.reasons if i >= count],
    )
    readable.check(loading.plan, evaluates=loading.evaluates, unreadable=loaded.reasons.values())
    train = readable.train.with_image_keys(loaded.keys[: len(readable.train)])
    train = add_captions(train, source.new_captions, duplicates_only=source.duplicates_only)
    readable = replace(readable, train=train)
    captions = readable.train.captions
    train_tokens, val_tokens = tokenize(dual, captions), tokenize(dual, readable.val.captions)
    notes = [
        *loading.plan.notes(readable.train),
        *_cut_notes("train", readable.train, train_tokens, dual.max_tokens),
        *_cut_notes("val", readable.val, val_tokens, dual.max_tokens),
    ]
    # Not those of val: that the model cannot tell captions apart is a fault, and the ranks show it.
    readable = replace(readable, train=readable.train.with_token_keys(train_tokens.keys()))
    plan, parts = loading.plan, loading.parts
    plan.check_fits(readable.train, loading.manifests)
    check_shares(plan, parts, readable.train, world)
    return TrainingData(
        readable,
        loaded.store,
        train_tokens,
        val_tokens,
        plan,
        parts,
        Normalizer(dual.preprocessing, world.device),
        dual.mask_on_host,
        world,
        loading.is_whole,
        vary_step(loading.augment, plan.seed, dual),
        CroppedPixels(decoder, readable.train.sources, loading.augment, plan.seed)
        if loading.augment.crops_originals
        else None,
        CaptionVariations(captions, loading.caption_augment, plan.seed, dual)
        if loading.caption_augment.is_on
        else None,
        tuple(notes),
    )


def _cut_notes(
    split: str, data: CaptionedImages, tokens: TokenizedCaptions, max_tokens: int
) -> Iterator[str]:
    alike = data.alike(tokens.keys())
    sentence = cut_sentence(tokens.cut, len(data.captions), max_tokens, alike=alike)
    if sentence is not None:
        yield f"Split {split}: {sentence}."


def joined_columns(matches: npt.NDArray[np.bool_], keys: Int64) -> npt.NDArray[np.bool_]:
    """Return bool[n, m]: texts of equal keys are positives of the same images.

    Different captions may lose the words in which they differ; an equal text is no negative.
    """
    group, sizes = np.unique(keys, return_inverse=True, return_counts=True)[1:]
    for number in np.flatnonzero(sizes > 1):
        columns = group == number
        matches[:, columns] = matches[:, columns].any(axis=1, keepdims=True)
    return matches


def check_shares(plan: BatchPlan, parts: int, train: CaptionedImages, world: World) -> None:
    """Raise UsageError where a process would have no pair of one of the `parts` of a step."""
    step = plan.smallest_batch(train)
    smallest = step // min(parts, step)
    if smallest < world.size:
        raise UsageError(
            f"the smallest batch has {smallest} pairs, too few for {world.size} processes; give a"
            f" larger --batch-size, or start fewer"
        )


def vary_step(augment: AugmentConfig, seed: int, dual: DualEncoder) -> VaryStep | None:
    """Return what varies the images of each step, or None where nothing does."""
    if not augment.is_on:
        return None
    from finetune.data.image_augmentation import apply_draws, draw  # imports kornia

    height, width = dual.preprocessing.height, dual.preprocessing.width

    def vary(step: int, count: int) -> Callable[[torch.Tensor, Int64], torch.Tensor]:
        draws = draw(augment, (count, 3, height, width), seed, step)
        return lambda pixels, rows: apply_draws(pixels, draws.take(rows))

    return vary
