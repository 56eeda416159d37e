"""The training loop: steps, evaluations, checkpoints, and when to stop."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from finetune.config.run_parts import Course
from finetune.console import Progress
from finetune.data.hard_negatives import Int32, nearest_neighbours
from finetune.data.loader import TrainingData
from finetune.data.samples import sample_captions
from finetune.data.tensors import TensorBatch
from finetune.data.world import World
from finetune.evaluation.validation import Evaluator, embed_captions, embed_images
from finetune.figures import GLOBAL, ZERO_SHOT, HistoryRow, Measurement, Metric
from finetune.losses.loss import Loss
from finetune.optimization.optimizers import set_learning_rate
from finetune.trackers.background import Trackers
from finetune.training.checkpoint import WorkFolder
from finetune.training.history import History, StepLog
from finetune.training.interruption import Interrupted, Interruption, ToldInterrupt
from finetune.training.run_cost import Laps
from finetune.training.state import TrainState, record_evaluation
from finetune.training.step import Backward, training_step

# Every line about an evaluation tells it.
SHOWN = Metric.parse("t2i_mrr@10")


@dataclass(frozen=True, slots=True)
class Run:
    """What stays the same from step to step.

    Attributes:
        course: When what happens.
        data: Batches and the validation split.
        work: Where checkpoints go.
        world: The processes of the run.
        loss: That is trained with.
        backward: Takes a batch's gradients.
        evaluate: None where nothing is evaluated.
        trackers: That are told what happens.
        progress: The bar.
    """

    course: Course
    data: TrainingData
    work: WorkFolder
    world: World
    loss: Loss
    backward: Backward
    evaluate: Evaluator | None
    trackers: Trackers
    progress: Progress


def fit(run: Run, state: TrainState, history: History) -> None:
    """Train from `state` on until the last step or until patience runs out.

    Writes a checkpoint every few minutes, when interrupted, and at the end.

    Raises:
        TrainingError: the loss is not finite or explodes, or a checkpoint cannot be written.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
    """
    course = run.course
    log, laps = step_log(run, state, history), Laps(state.cost)
    saved_at = time.monotonic()
    stops = run.world.later()
    with Interruption() as interruption, closing(Batches(run)) as batches:
        try:
            while True:
                # before the first step it is the base model that is evaluated
                if is_due(run, state):
                    log.read()
                    laps.end(steps=True)
                    evaluate(run, state, history, interruption)
                    laps.end(steps=False)
                if state.stopping.stop or state.step == course.steps:
                    break
                if stops.any(interruption.requested):
                    raise Interrupted
                if time.monotonic() - saved_at >= course.checkpoint_seconds:
                    save(run, state, history, log, laps)
                    saved_at = time.monotonic()
                take_step(run, state, batches, log)
        except Interrupted:
            save(run, state, history, log, laps)
            run.progress.message(
                f"Stopped after step {state.step:,} of {course.steps:,};"
                f" run the same command again to continue."
            )
            raise ToldInterrupt from None
        save(run, state, history, log, laps)


def take_step(run: Run, state: TrainState, batches: "Batches", log: StepLog) -> None:
    """Take the next batch and one step of the optimizer, and log what it measured."""
    if state.step % run.data.steps_per_epoch == 0:
        log.read()  # an error names images by the batches of their epoch
    batch = batches.next(state)
    state.dual.train()
    rate = set_learning_rate(state.optimizer, run.course.schedule.factor(state.step))
    loss, norm = training_step(
        state, batch, run.backward, run.world, run.course.max_grad_norm, run.loss.clamp
    )
    log.add(state.step, rate, loss, state.dual.logit_scale, norm)
    state.step += 1
    state.cost.pairs += len(batch.positives)
    if log.is_full:
        log.read()
    run.progress.advance()


def save(run: Run, state: TrainState, history: History, log: StepLog, laps: Laps) -> None:
    """Write a checkpoint, after everything that it counts as told."""
    log.read()
    laps.end(steps=True)
    state.cost.note_memory(run.world.device)
    history.flush(sync=True)
    run.trackers.flush()
    if run.world.is_first:
        run.work.save(state.state_dict(run.data), state.kept)
    laps.end(steps=False)


def step_log(run: Run, state: TrainState, history: History) -> StepLog:
    """Return what takes in the figures of each step."""
    return StepLog(
        run.data,
        history,
        run.work,
        run.trackers,
        run.progress,
        lambda step: run.data.ids(step, state.neighbours),
        norm_may_overflow=state.scaler.is_enabled(),
    )


class Batches:
    """The steps' batches in order; with hard negatives epoch by epoch, as they become known."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ahead = run.data.tensors(0, 0)
        self._end = -1

    def next(self, state: TrainState) -> TensorBatch:
        """Return the batch of the step `state.step`."""
        if state.step >= self._end:
            self._start(state)
        return next(self._ahead)

    def close(self) -> None:
        """Stop what prepares batches ahead."""
        self._ahead.close()

    def _start(self, state: TrainState) -> None:
        run, data = self._run, self._run.data
        self._ahead.close()
        self._end = run.course.steps
        if data.plan.hard_negatives:
            epoch, position = divmod(state.step, data.steps_per_epoch)
            self._end = (epoch + 1) * data.steps_per_epoch
            # within an epoch, after an interruption, they are those of the checkpoint
            if position == 0 and epoch > 0:
                state.neighbours = run.world.from_first(lambda: find_neighbours(run, state, epoch))
        self._ahead = data.tensors(state.step, self._end, state.neighbours)


def find_neighbours(run: Run, state: TrainState, epoch: int) -> Int32:
    """Find the neighbours of the training images.

    They follow from the model as it is and the captions of the epoch before.
    """
    data, seed = run.data, run.data.plan.seed
    run.progress.message("Looking for hard negatives.")
    dual = state.dual.eval()
    images = np.arange(len(data.splits.train))
    captions = sample_captions(data.splits.train, seed=seed, epoch=epoch - 1)
    return nearest_neighbours(
        embed_images(dual, data.pixels, images, data.normalizer),
        embed_captions(dual, data.train_tokens, captions),
        data.splits.train,
        data.plan.neighbours,
        seed=seed + epoch,
    )


def is_due(run: Run, state: TrainState) -> bool:
    """Return whether the model is to be evaluated now."""
    every = run.course.evaluate_every
    if run.evaluate is None or every is None or state.evaluated >= state.step:
        return False
    return state.step % every == 0 or state.step == run.course.steps


def evaluate(run: Run, state: TrainState, history: History, interruption: Interruption) -> None:
    """Measure, and keep the weights where they are among the best."""
    assert run.evaluate is not None
    # several processes stop together, after the evaluation
    check = interruption.check if run.world.size == 1 else _go_on
    measure = partial(measured, run, run.evaluate, state.step, check)
    if state.step == 0:
        run.progress.message("Measuring what the model finds before training …")
    averaged = nullcontext() if state.average is None else state.average.applied()
    with averaged:
        values, measurements = run.world.from_first(measure)
        is_kept = record_evaluation(
            state,
            values,
            measurements,
            history,
            run.data.steps_per_epoch,
            run.course.metric,
            run.course.keep_best,
        )
        if is_kept and run.world.is_first:
            weights = {
                name: tensor.detach().cpu() for name, tensor in state.dual.state_dict().items()
            }
            run.work.save_weights(state.step, weights)
    run.trackers.log(state.step, values)
    run.progress.message(evaluation_line(run, state, values, measurements))


def measured(
    run: Run, evaluate: Evaluator, step: int, check: Callable[[], None]
) -> tuple[HistoryRow, tuple[Measurement, ...]]:
    """Return `ValidationResult.row` and `Evaluator.measurements`.

    Every process needs these, and no embeddings.

    What was answered before training is kept in the working folder.
    """
    evaluation = evaluate(check)
    if step == 0:
        np.savez(run.work.baseline, **evaluate.answers(evaluation).as_arrays())
    return evaluation.row(), evaluate.measurements(evaluation)


def _go_on() -> None:
    """Stop no evaluation, ever."""


def evaluation_line(
    run: Run, state: TrainState, values: HistoryRow, measurements: Sequence[Measurement]
) -> str:
    """Return one line for people."""
    parts = [f"step {state.step:,}/{run.course.steps:,}"]
    for each in measurements:
        if each.scope != GLOBAL:
            continue
        if each.task == ZERO_SHOT:
            parts.append(f"zero-shot hits@1 {each['hits@1']:.3f} ({each.pool:,} classes)")
        else:
            parts.append(
                f"{each.task} MRR@10 {each['mrr@10']:.3f}, recall@1 {each['recall@1']:.3f}"
                f" (global, pool of {each.pool:,})"
            )
    metric = run.course.metric
    if metric != SHOWN:
        parts.append(f"{metric.column} {values[metric.column]:.3f}")
    if state.step == 0:
        parts.append("before training")
    elif state.stopping.best_step == state.step:
        parts.append("best so far")
    return "  ".join(parts)
