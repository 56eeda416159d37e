"""After the last step: the best weights, measured once more, exported with figures and pictures."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.adapt import finished
from finetune.evaluate import Evaluation, figures_in_batches
from finetune.export import CHECKED_PICTURES, CHECKED_TEXTS, export_encoder
from finetune.fit import Run
from finetune.history import History
from finetune.model import DualEncoder
from finetune.outcome_pictures import draw_outcome
from finetune.train_state import Figures, TrainState


def finish(run: Run, state: TrainState, history: History, rejected: int) -> Figures:
    """Write the encoder folder of the best weights, and one beside it for each others kept.

    Returns the figures of the weights that were exported: adapters merged, and brought towards
    the base model where that is asked for.
    """
    config, out = run.config, Path(run.config.out)
    dual, best = state.dual, state.stopping.best_step
    unfinished = copy.deepcopy(dual) if len(state.kept) > 1 else None
    if state.kept:
        dual.load_state_dict(run.work.load_weights(best))
    elif state.average is not None:
        state.average.copy_to_model()
    finished(dual, config)
    evaluation = None if run.evaluate is None else run.evaluate()
    figures = {} if evaluation is None else all_figures(run, evaluation)

    impact = run.trackers.finish({} if evaluation is None else evaluation.row())
    pictures = draw_outcome(run, history.rows, evaluation)
    # a report of nothing would only make people look
    report = [run.work.report] if rejected else []
    about = description(run, state, figures, impact)
    export(run, dual, out, about, [history.path, *pictures, *report])
    for step in state.kept:
        if step == best or unfinished is None:
            continue
        other = copy.deepcopy(unfinished)
        other.load_state_dict(run.work.load_weights(step))
        folder = out.with_name(f"{out.name}.step-{step}")
        run.progress.message(f"Writing the weights of step {step:,} to {folder}.")
        export(run, finished(other, config), folder, {}, [history.path])
    return figures


def all_figures(run: Run, evaluation: Evaluation) -> Figures:
    """Of the whole pool, of classes, and within batches where that is asked for."""
    figures = evaluation.figures()
    if run.config.batches_of is not None and run.evaluate is not None:
        for each in figures_in_batches(evaluation, run.evaluate.pool, run.config.batches_of):
            figures[f"{each.direction} {each.scope}"] = each.as_dict()
    return figures


def description(
    run: Run, state: TrainState, figures: Figures, impact: Mapping[str, float]
) -> dict[str, Any]:
    """What metrics.json and the model card say of the run; keys of `card.model_card`."""
    splits, config = run.data.splits, run.config
    return {
        "split": "val",
        "before": list(state.baseline.values()),
        "after": list(figures.values()),
        "data": {
            name: {"images": len(split), "captions": len(split.captions)}
            for name, split in (("train", splits.train), ("val", splits.val))
            if len(split)
        },
        "training": {
            "steps": state.step,
            "best step": state.stopping.best_step if config.evaluates else state.step,
            "device": str(run.world.device),
        },
        "impact": dict(impact),
    }


def export(
    run: Run, dual: DualEncoder, out: Path, about: Mapping[str, Any], files: list[Path]
) -> None:
    """Write one encoder folder, checked on captions and pictures that it was trained on."""
    train = run.data.splits.train
    sample = np.arange(min(CHECKED_PICTURES, len(train)))
    export_encoder(
        dual.eval(),
        out,
        check_texts=train.captions[:CHECKED_TEXTS],
        check_pixels=next(run.data.pixels.batches([sample])),
        metrics=about or None,
        recipe=run.config.as_dict(),
        files=files,
    )
