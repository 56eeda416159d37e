"""Embed a split and rank all of it: the figures that training is steered and reported by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from finetune.arrays import Float32, Int64
from finetune.data.batches import Batch, positives
from finetune.data.captioned_images import CaptionedImages
from finetune.data.loader import TrainingData
from finetune.data.pixel_store import PixelStore
from finetune.data.splits import ValidationClasses
from finetune.data.tensors import Normalizer
from finetune.data.tokenized_captions import TokenizedCaptions
from finetune.data.tokens import tokenize
from finetune.evaluation.before_after import Answers
from finetune.evaluation.metrics import in_batches
from finetune.evaluation.pool import Pool, pool_figures, pool_of, pool_ranks
from finetune.evaluation.zero_shot import average_prompts, class_prompts, zero_shot
from finetune.figures import (
    CLASS_CUTOFFS,
    CUTOFFS,
    DIRECTIONS,
    VALIDATION_LOSS,
    Direction,
    Measurement,
    Metric,
    cutoffs_with,
    metrics_at,
)
from finetune.losses.loss import ScoresBatch
from finetune.models.dual_encoder import DualEncoder

SMALLEST_BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """A split, embedded in float32.

    Attributes:
        texts: float32[q, d], of the distinct captions.
        images: float32[n, d].
    """

    texts: Float32
    images: Float32


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """One evaluation of the validation split.

    Attributes:
        retrieval: Text to image and image to text, over the whole pool.
        loss: Mean over batches of the run's --batch-size.
        zero_shot: Where there are classes.
        embedded: What it was measured on.
        ranks: Of `finetune.evaluation.pool.pool_ranks`: of each caption and of each image.
        metrics: By column of history.csv, what is measured.
    """

    retrieval: tuple[Measurement, Measurement]
    loss: float
    zero_shot: Measurement | None
    embedded: Embedded
    ranks: tuple[Int64, Int64]
    metrics: Mapping[str, Metric]

    def row(self) -> dict[str, float]:
        """Return the figures by column of history.csv."""
        measured = {each.task: each for each in (*self.retrieval, self.zero_shot) if each}
        others = {VALIDATION_LOSS: self.loss}
        return {
            column: others[metric.figure]
            if metric.task is None
            else measured[metric.task][metric.figure]
            for column, metric in self.metrics.items()
            if metric.task is None or metric.task in measured
        }


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What every evaluation of a run needs.

    Attributes:
        dual: The model.
        pool: The validation split's distinct captions and its images.
        val: The validation split.
        pixels: A store in which the split's images are first_image, first_image + 1, …
        first_image: See `pixels`.
        tokens: Of all captions of the split.
        normalizer: Puts pixels on the device.
        batch_size: Images of a batch of the loss.
        loss_of: The loss.
        classes: That images choose among.
        prompts: Of the classes, `templates` of each. They are tokenised beforehand: while
            batches are prepared in another thread the tokenizer is that one's.
        templates: Prompts of a class.
        batches_of: Figures are also taken within batches of so many pairs.
        batches_in_file_order: See `finetune.evaluation.metrics.in_batches`.
        cutoffs: Of the figures.
        metrics: By column of history.csv, what is measured.
    """

    dual: DualEncoder
    pool: Pool
    val: CaptionedImages
    pixels: PixelStore
    first_image: int
    tokens: TokenizedCaptions
    normalizer: Normalizer
    batch_size: int
    loss_of: ScoresBatch
    classes: ValidationClasses | None = None
    prompts: TokenizedCaptions | None = None
    templates: int = 1
    batches_of: int | None = None
    batches_in_file_order: bool = False
    cutoffs: tuple[int, ...] = CUTOFFS
    metrics: Mapping[str, Metric] = field(default_factory=metrics_at)

    @torch.no_grad()
    def __call__(self, check: Callable[[], None] = lambda: None) -> ValidationResult:
        """Measure the model as it is, in float32, whatever precision it trains in.

        Leaves the model in evaluation mode. `check` is called between batches; what it raises
        ends the evaluation.
        """
        dual = self.dual.eval()
        images = self.first_image + np.arange(self.pool.images)
        embedded = Embedded(
            embed_captions(dual, self.tokens, self.pool.captions, check),
            embed_images(dual, self.pixels, images, self.normalizer, check),
        )
        most = max(self.cutoffs)
        ranks = pool_ranks(self.pool, embedded.texts, embedded.images, most)
        return ValidationResult(
            pool_figures(self.pool, ranks, self.cutoffs),
            self._loss(embedded),
            self._zero_shot(embedded.images),
            embedded,
            ranks,
            self.metrics,
        )

    def answers(self, evaluation: ValidationResult) -> Answers:
        """Return what it found for each query, for the run's images."""
        embedded = evaluation.embedded
        return Answers.of(self.pool, embedded.texts, embedded.images, evaluation.ranks)

    def measurements(self, evaluation: ValidationResult) -> tuple[Measurement, ...]:
        """Return the measurements for metrics.json and the card.

        These are over the pool by direction, of classes, and in batches.
        """
        found = list(evaluation.retrieval)
        if evaluation.zero_shot is not None:
            found.append(evaluation.zero_shot)
        if self.batches_of is not None:
            found += self._in_batches(evaluation.embedded, self.batches_of)
        return tuple(found)

    def _in_batches(self, embedded: Embedded, batch: int) -> list[Measurement]:
        """Measure both directions within batches of so many pairs, as some papers count."""
        indptr, images = self.pool.text_positives
        texts, owners = embedded.texts, images[indptr[:-1]]
        if self.batches_in_file_order:
            # no image is left out because another has its caption
            queries, owners = self.pool.pairs
            texts = texts[queries]

        def measured(direction: Direction) -> Measurement:
            return in_batches(
                texts,
                embedded.images,
                owners,
                self.cutoffs,
                batch=batch,
                direction=direction,
                in_file_order=self.batches_in_file_order,
            )

        return [measured(direction) for direction in DIRECTIONS]

    def _loss(self, embedded: Embedded) -> float:
        """Return the loss over batches of images, each with its first caption.

        The order of the batches never changes.
        """
        order = np.random.default_rng(0).permutation(len(self.val))
        parts = np.array_split(order, -(-len(order) // self.batch_size))
        _, text_of = np.unique(self.val.keys, return_inverse=True)
        captions = self.val.starts[:-1]
        by_tokens = self.val.with_token_keys(self.tokens.keys())
        losses = [
            self.loss_of(
                self._tensor(embedded.images[part]),
                self._tensor(embedded.texts[text_of[captions[part]]]),
                self.dual.logit_scale,
                self._tensor(positives(by_tokens, Batch(part, captions[part]))),
            ).item()
            for part in parts
        ]
        return float(np.average(losses, weights=[len(part) for part in parts]))

    def _zero_shot(self, image_embeds: Float32) -> Measurement | None:
        if self.classes is None or self.prompts is None:
            return None
        prompts = embed_captions(
            self.dual, self.prompts, np.arange(len(self.prompts.starts) - 1, dtype=np.int64)
        )
        asked = self.classes.of_image >= 0
        return zero_shot(
            image_embeds[asked],
            average_prompts(prompts, self.templates),
            self.classes.of_image[asked],
            cutoffs_with(self.cutoffs, CLASS_CUTOFFS),
        )

    def _tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.normalizer.device)


def evaluator(
    data: TrainingData,
    dual: DualEncoder,
    loss_of: ScoresBatch,
    *,
    batch_size: int,
    templates: tuple[str, ...],
    batches_of: int | None = None,
    batches_in_file_order: bool = False,
    cutoffs: tuple[int, ...] = CUTOFFS,
    metrics: Mapping[str, Metric] | None = None,
) -> Evaluator:
    """Make the evaluator of a run's validation split, whose `templates` these prompts are."""
    classes = data.splits.classes
    prompts = None
    if classes is not None:
        prompts = tokenize(dual, tuple(class_prompts(classes.names, templates)))
    return Evaluator(
        dual,
        pool_of(data.splits.val),
        data.splits.val,
        data.pixels,
        len(data.splits.train),
        data.val_tokens,
        data.normalizer,
        batch_size,
        loss_of,
        classes,
        prompts,
        len(templates),
        batches_of,
        batches_in_file_order,
        cutoffs,
        metrics_at(cutoffs) if metrics is None else metrics,
    )


@torch.no_grad()
def embed_images(
    dual: DualEncoder,
    pixels: PixelStore,
    indices: Int64,
    normalizer: Normalizer,
    check: Callable[[], None] = lambda: None,
    batch_size: int = SMALLEST_BATCH,
) -> Float32:
    """Embed the images of these indices: float32[n, d]."""
    found = []
    for chunk in pixels.batches(_chunks(indices, batch_size)):
        check()
        found.append(dual.embed_images(normalizer(chunk)).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def embed_captions(
    dual: DualEncoder,
    tokens: TokenizedCaptions,
    indices: Int64,
    check: Callable[[], None] = lambda: None,
    batch_size: int = SMALLEST_BATCH,
) -> Float32:
    """Embed the captions of these indices: float32[n, d]."""
    device = dual.logit_scale.device
    found = []
    for chunk in _chunks(indices, batch_size):
        check()
        ids, mask = map(torch.from_numpy, tokens.padded(chunk))
        made = dual.mask_on_host(ids, mask)
        texts = ids.to(device), None if made is None else made.to(device)
        found.append(dual.embed_texts(*texts).cpu().numpy())
    return np.concatenate(found)


def _chunks(values: Int64, size: int) -> list[Int64]:
    return [values[start : start + size] for start in range(0, len(values), size)]
