"""After the last step: the best weights, measured once more, exported with figures and images.

The images are those of what training changed: ranks, a batch's similarities, and single queries.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.recipes import recipe_report
from finetune.config.run_parts import Finish
from finetune.data.captioned_images import CaptionedImages
from finetune.encoder_folder import CHANGES_IMAGE, CHANGES_PAGE
from finetune.evaluation.before_after import Answers, sample_positives
from finetune.evaluation.comparison_sheet import write_run_comparison
from finetune.evaluation.plots import (
    RANKS_PLOT,
    SIMILARITY_PLOT,
    RankedPool,
    plot_history,
    plot_ranks,
    plot_similarity,
)
from finetune.evaluation.pool import Pool
from finetune.evaluation.validation import ValidationResult
from finetune.export.encoder import export_encoder
from finetune.export.onnx import CHECKED_IMAGES, CHECKED_TEXTS
from finetune.figures import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Measurement
from finetune.files.atomic import replace_file
from finetune.files.outputs import is_sealed
from finetune.frames import ManifestPath
from finetune.models.dual_encoder import DualEncoder
from finetune.training.history import History
from finetune.training.loop import Run
from finetune.training.prepare import finished
from finetune.training.run_cost import estimated_impact, machine_facts
from finetune.training.state import TrainState


def draw_outcome(
    folder: Path, data: CaptionedImages, pool: Pool, before: Answers | None, after: Answers
) -> list[Path]:
    """Draw ranks.png and similarity.png and, where there is a before, changes.html and .png.

    Args:
        folder: That exists.
        data: The validation split.
        pool: Of `data`.
        before: What the encoder answered over `pool` before training, None where unmeasured.
        after: The same after.

    Returns the files written. Raises ClipsearchError where one cannot be.
    """
    captions = len(pool.captions)
    matrices = {"after training": after.sample_cosines}
    if before is not None:
        matrices = {"before training": before.sample_cosines} | matrices
    ranks = [
        RankedPool(
            TEXT_TO_IMAGE,
            pool.images,
            None if before is None else before.text_ranks,
            after.text_ranks,
        ),
        RankedPool(
            IMAGE_TO_TEXT,
            captions,
            None if before is None else before.image_ranks,
            after.image_ranks,
        ),
    ]
    written = [
        plot_ranks(ranks, folder / RANKS_PLOT),
        plot_similarity(matrices, sample_positives(pool), folder / SIMILARITY_PLOT),
    ]
    if before is not None:
        for name in (CHANGES_PAGE, CHANGES_IMAGE):
            write_run_comparison(folder / name, data, pool, before, after)
            written.append(folder / name)
    return written


def finish(
    run: Run, wanted: Finish, state: TrainState, history: History, rejected: int
) -> tuple[Measurement, ...]:
    """Write the encoder folder of the best weights, and one beside it for each others kept.

    Returns what was measured of the weights that were exported: adapters merged, and brought
    towards the base model where that is asked for.
    """
    out, dual, best, say = wanted.out, state.dual, state.stopping.best_step, run.progress.message
    run.progress.end()
    unfinished = copy.deepcopy(dual) if len(state.kept) > 1 else None
    if state.kept:
        dual.load_state_dict(run.work.load_weights(best))
    elif state.average is not None:
        state.average.copy_to_model()
    finished(dual, wanted.base, wanted.wise_ft)
    if run.evaluate is not None:
        say("Measuring the finished encoder …")
    evaluation = None if run.evaluate is None else run.evaluate()
    measured: tuple[Measurement, ...] = ()
    if run.evaluate is not None and evaluation is not None:
        measured = run.evaluate.measurements(evaluation)

    impact = run.trackers.finish({} if evaluation is None else evaluation.row())
    say("Drawing plots …")
    drawn = draw(run, history, best, evaluation)
    sheets = [path for path in drawn if path.name in (CHANGES_PAGE, CHANGES_IMAGE)]
    plots = [path for path in drawn if path not in sheets]
    # a report of nothing would only make people look
    report = [run.work.report] if rejected else []
    about = description(run, wanted, state, measured, impact)
    # `out` comes last: where it is there, all is done, and it may hold the base model until then
    for step in state.kept:
        if step == best or unfinished is None:
            continue
        other = copy.deepcopy(unfinished)
        other.load_state_dict(run.work.load_weights(step))
        folder = out.with_name(f"{out.name}.step-{step}")
        say(f"Writing the weights of step {step:,} to {folder}.")
        other = finished(other, wanted.base, wanted.wise_ft)
        own = about | figures(wanted, state, measured_of(run, other))
        own["training"] = about["training"] | {"step of these weights": step}
        export(run, wanted, other, folder, own, [history.path])
    lay_beside(out, sheets, say)
    say(f"Writing {out} and comparing its ONNX towers with torch …")
    export(run, wanted, dual, out, about, [history.path, *plots, *report])
    return measured


def lay_beside(out: Path, sheets: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Write the sheets that hold users' images beside the encoder folder, never into it.

    So that no upload of the folder, by hand either, takes them along. A file of that name that is
    not ours stays, which `tell` is told.
    """
    for sheet in sheets:
        path = out.with_name(f"{out.name}.{sheet.name}")
        if path.exists() and not is_sealed(path):
            tell(f"{path} is no file of clipsearch, so it stays, and the changes are not shown.")
            continue
        replace_file(path.resolve(), [sheet.read_bytes()])


def measured_of(run: Run, dual: DualEncoder) -> tuple[Measurement, ...]:
    """Measure other weights of the run on its validation split."""
    if run.evaluate is None:
        return ()
    evaluate = replace(run.evaluate, dual=dual)
    return evaluate.measurements(evaluate())


def draw(
    run: Run, history: History, best_step: int, evaluation: ValidationResult | None
) -> list[Path]:
    """Draw plots of the run and, where it was evaluated, of what it changed; return the files."""
    folder, val = run.work.path, run.data.splits.val
    images = plot_history(
        history.rows, folder, pool=len(val) or None, best_step=best_step if len(val) else None
    )
    if evaluation is not None and run.evaluate is not None:
        after = run.evaluate.answers(evaluation)
        images += draw_outcome(folder, val, run.evaluate.pool, baseline(run), after)
    return images


def baseline(run: Run) -> Answers | None:
    """Return the answers before training; None where a killed run has not kept them."""
    try:
        with np.load(run.work.baseline) as arrays:
            return Answers.from_arrays(dict(arrays))
    except (OSError, ValueError, TypeError):
        return None


def description(
    run: Run,
    wanted: Finish,
    state: TrainState,
    measured: Sequence[Measurement],
    impact: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what metrics.json and the model card say of the run; keys of `card.model_card`."""
    splits = run.data.splits
    return {
        "split": "val",
        **figures(wanted, state, measured),
        "data": {
            name: {"images": len(split), "captions": len(split.captions)}
            for name, split in (("train", splits.train), ("val", splits.val))
            if len(split)
        },
        "manifests": counts_by_manifest(wanted.manifests, wanted.dataset_weights, splits.train),
        "training": {
            "steps": state.step,
            "best step": state.step if run.evaluate is None else state.stopping.best_step,
            "device": str(run.world.device),
        },
        "run": state.cost.as_dict() | machine_facts(run.world.device, run.world.size),
        "impact": impact_of(wanted, state, impact),
    }


def impact_of(wanted: Finish, state: TrainState, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tracker measured, else an estimate where the user gave the machine's power."""
    given = wanted.power, wanted.carbon_intensity
    impact = dict(measured) or estimated_impact(state.cost.seconds, *given)
    if impact and wanted.carbon_region:
        impact["region"] = wanted.carbon_region
    return impact


def figures(wanted: Finish, state: TrainState, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Return what of `description` depends on which of the run's weights were measured."""
    before = [each.as_flat_dict() for each in state.baseline]
    after = [each.as_flat_dict() for each in measured]
    return {
        "before": before,
        "after": after,
        "recipe": recipe_report(wanted.recipe, before, after),
    }


def counts_by_manifest(
    manifests: Sequence[ManifestPath], weights: Sequence[float] | None, train: CaptionedImages
) -> list[dict[str, Any]]:
    """Count images and captions of each manifest's split train.

    Each has its name, and its weight where it has one.
    """
    captions = train.datasets[train.image_of_caption]
    found: list[dict[str, Any]] = []
    for number, manifest in enumerate(manifests):
        counts: dict[str, Any] = {
            "name": Path(manifest).name,
            "images": int((train.datasets == number).sum()),
            "captions": int((captions == number).sum()),
        }
        if weights is not None:
            counts["weight"] = weights[number]
        found.append(counts)
    return found


def export(
    run: Run,
    wanted: Finish,
    dual: DualEncoder,
    out: Path,
    about: Mapping[str, Any],
    files: list[Path],
) -> None:
    """Write one encoder folder, checked on captions and images that it was trained on."""
    train = run.data.splits.train
    sample = np.arange(min(CHECKED_IMAGES, len(train)))
    export_encoder(
        dual.eval(),
        out,
        check_texts=train.captions[:CHECKED_TEXTS],
        check_pixels=next(run.data.pixels.batches([sample])),
        metrics=about or None,
        recipe=wanted.settings,
        files=files,
        yes=wanted.yes,
    )
