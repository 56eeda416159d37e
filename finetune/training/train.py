"""Fine-tune a dual encoder on captioned images: data, model, loop, export.

Everything random follows from the seed and the step, so that a run which was killed goes on to
the weights that it would have reached.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import numpy as np
import torch

from finetune.config.reading import Reading
from finetune.config.run_parts import (
    BaseModel,
    Course,
    Finish,
    Gradients,
    Loading,
    Optimization,
    Preparation,
    Start,
    Tracking,
    Translation,
)
from finetune.config.settings import TINY, TrainConfig
from finetune.console import Progress
from finetune.data.back_translation import (
    TranslationCache,
    back_translate,
    default_cache,
    parse_routes,
    wanted_for_duplicates,
)
from finetune.data.captioned_images import CaptionedImages
from finetune.data.loader import DataSource, load_training_data
from finetune.data.splits import TrainingManifests
from finetune.data.world import World
from finetune.evaluation.validation import Evaluator, evaluator
from finetune.export.encoder import check_out
from finetune.figures import FlatFigures, HistoryRow, flat_by_key
from finetune.images.decode_workers import Decoder
from finetune.optimization.precisions import resolve_device, resolve_precision
from finetune.trackers import start_trackers
from finetune.trackers.background import Trackers
from finetune.training.checkpoint import WorkFolder
from finetune.training.checks import check_config, check_paths, unfinished_warmup
from finetune.training.finish import finish
from finetune.training.gradients.distributed import join_world
from finetune.training.loop import Run, fit
from finetune.training.prepare import Prepared, load_model, prepare
from finetune.training.state import start_or_resume
from finetune.training.step import Backward, build_backward


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave.

    Attributes:
        out: The encoder folder.
        metrics, baseline: Of the exported weights and before training, on the validation split,
            by direction ("text-to-image", "image-to-text") as `Measurement.as_flat_dict`, and
            "zero-shot" where there are classes; empty where nothing was evaluated.
        history: The rows of history.csv.
        steps: That were run, in all.
        best_step: Of the weights in `out`; 0 is the base model itself.
        stopped_early: Whether patience ran out.
        rejected: Rows and images that could not be used; `out`/rejected.csv names them.
        notes: Sentences for the user: which columns were taken, what is held out of train; how many
            captions are cut, at how many tokens; a warm-up that is longer than the run.
    """

    out: Path
    metrics: dict[str, FlatFigures]
    baseline: dict[str, FlatFigures]
    history: list[HistoryRow]
    steps: int
    best_step: int
    stopped_early: bool
    rejected: int
    notes: tuple[str, ...] = ()


def train(config: TrainConfig, *, stream: TextIO | None = None, quiet: bool = False) -> Result:
    """Fine-tune, and write the encoder folder `config.out`.

    The same call after a kill goes on at the last checkpoint. Progress goes to `stream`
    (standard error unless given), or nowhere with `quiet`. Started by torchrun or accelerate,
    the processes share each batch, and the first one writes everything.

    Raises:
        UsageError: a wrong value, an impossible combination, or other options than the
            interrupted run's; before anything is written.
        ManifestError: the manifest cannot be read.
        TrainingError: the loss is not finite or explodes, or a checkpoint cannot be written or
            read.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
    """
    check_config(config)
    check_paths(config)
    check_out(Path(config.out), yes=config.yes)
    with ExitStack() as stack:
        is_tiny = config.model == TINY and config.text_model is None
        stack.enter_context(cpu_threads(config.threads, is_small=is_tiny))
        world = stack.enter_context(join_world(resolve_device(config.device, config.precision)))
        if not world.is_first:
            # what these write, nobody reads
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="clipsearch-")))
            config = replace(config, out=scratch / "encoder", trackers=())
        show = partial(Progress, stream=stream, quiet=quiet or not world.is_first)
        return _train(config, world, show)


def _train(config: TrainConfig, world: World, show: partial[Progress]) -> Result:
    def progress(task: str, total: int, unit: str = "", done: int = 0) -> Progress:
        return show(task, total, unit=unit, done_before=done)

    say = progress("Preparing", 0).message
    asked = config.with_absolute_paths().as_dict()
    # what can be refused is refused before the first slow thing
    with (
        WorkFolder.open(config.work_folder, asked, restart=config.restart) as work,
        TrainingManifests.open(Reading.of(config)) as manifests,
    ):
        say(f"Reading {', '.join(map(str, config.manifests))} …")
        splits = manifests.splits(
            config.batch_plan,
            evaluates=config.evaluates,
            classes=config.zero_shot_classes,
        )
        seed_everything(config.seed)
        say(f"Loading {config.model} …")
        dual = load_model(BaseModel.of(config), splits.train.captions).to(world.device)
        prepared = prepare(dual, Preparation.of(config), say)
        source = DataSource(
            splits,
            manifests.problems,
            translated(splits.train, Translation.of(config), world, progress),
            config.back_translate_duplicates,
        )

        device = world.device.type
        with Decoder(dual.preprocessing, config.workers, device) as decoder:
            data = load_training_data(
                Loading.of(config, work.pixels), source, dual, decoder, world, progress
            )
            manifests.problems.write(work.report)
            rejected = len(manifests.problems)
            state, history = start_or_resume(Start.of(config), work, data, dual, world)
            seed_process(config.seed, world, state.step)
            world.check_equal(dual.parameters())
            course = Course.of(config, data.steps_per_epoch)
            warning = unfinished_warmup(course.schedule, Optimization.of(config).learning_rate)
            warnings = () if warning is None else (f"Warning: {warning}.",)
            notes = (*splits.notes, *data.notes, *warnings)
            with (
                progress("Training", course.steps, "steps", state.step) as shown,
                trackers_of(Tracking.of(config), state.step, shown.message) as trackers,
            ):
                if rejected:
                    shown.message(f"{manifests.problems.summary()}; see {work.report}")
                for note in notes:
                    shown.message(note)
                if state.step:
                    shown.message(f"Continuing after step {state.step:,} of {course.steps:,}.")
                backward = backward_of(Gradients.of(config), prepared, world)
                evaluate: Evaluator | None = None
                if config.evaluates:
                    evaluate = evaluator(
                        data,
                        dual,
                        prepared.loss,
                        batch_size=config.batch_size,
                        templates=config.zero_shot_template,
                        batches_of=config.batches_of,
                        batches_in_file_order=config.batches_in_file_order,
                        cutoffs=config.cutoffs,
                        metrics=config.measured,
                    )
                run = Run(
                    course, data, work, world, prepared.loss, backward, evaluate, trackers, shown
                )
                fit(run, state, history)
                metrics = world.from_first(
                    lambda: finish(run, Finish.of(config), state, history, rejected)
                )
        if not config.keep_checkpoints:
            work.remove()

    return Result(
        out=Path(config.out),
        metrics=flat_by_key(metrics),
        baseline=flat_by_key(state.baseline),
        history=history.rows,
        steps=state.step,
        best_step=state.stopping.best_step if config.evaluates else state.step,
        stopped_early=state.step < course.steps,
        rejected=rejected,
        notes=notes,
    )


def trackers_of(tracking: Tracking, step: int, warn: Callable[[str], None]) -> Trackers:
    """Start the trackers of a run, which has made so many steps."""
    return start_trackers(
        tracking.names,
        folder=tracking.folder,
        config=tracking.settings,
        project=tracking.project,
        run_name=tracking.run_name,
        resumed_from_step=step,
        warn=warn,
    )


def backward_of(gradients: Gradients, prepared: Prepared, world: World) -> Backward:
    """Make what takes a run's gradients."""
    return build_backward(
        prepared.loss,
        world,
        resolve_precision(gradients.precision, world.device.type).dtype,
        chunk_size=gradients.chunk_size,
        parts=gradients.parts,
        compilation=prepared.compilation,
    )


def translated(
    train: CaptionedImages,
    translation: Translation,
    world: World,
    progress: Callable[..., Progress],
) -> Mapping[str, Sequence[str]]:
    """Make new captions of the split train, by back-translation where that is asked for.

    The first process translates for all; `progress` makes a bar.
    """
    if translation.languages is None:
        return {}
    routes = parse_routes(translation.languages)
    wanted = wanted_for_duplicates(train) if translation.duplicates_only else None

    def translate() -> Mapping[str, Sequence[str]]:
        with TranslationCache(Path(translation.cache or default_cache())) as cache:
            found = back_translate(
                train.captions,
                routes,
                cache,
                progress=progress,
                wanted=wanted,
                device=str(world.device),
            )
        progress("Translating", 0).message(found.summary())
        return found.captions

    return world.from_first(translate)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_process(seed: int, world: World, step: int) -> None:
    """Let dropout differ between processes; the first one keeps what a checkpoint restores."""
    if not world.is_first:
        torch.manual_seed(hash((seed, world.rank, step)) % 2**63)


@contextmanager
def cpu_threads(count: int | None, *, is_small: bool) -> Iterator[None]:
    """Set torch's threads on the CPU during training; None chooses by the model's size.

    They are as before afterwards.
    """
    before = torch.get_num_threads()
    # a small model spends more time handing work to a second thread than the thread saves
    torch.set_num_threads(count or (1 if is_small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
