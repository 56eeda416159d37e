"""What changes from step to step, from the start or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune.checkpoint import WorkFolder, random_states, restore_random_states
from finetune.config import TrainConfig
from finetune.errors import UsageError
from finetune.history import DIRECTIONS, History, Row
from finetune.metrics import RetrievalMetrics
from finetune.model import DualEncoder
from finetune.optim import adamw
from finetune.stopping import EarlyStopping
from finetune.training_data import TrainingData

Figures = dict[str, dict[str, str | int | float]]


@dataclass(slots=True)
class TrainState:
    """What changes from step to step; all of it is in a checkpoint.

    Attributes:
        step: Steps done.
        evaluated: The step that was evaluated last, -1 before the first.
        baseline, metrics: Figures at step 0 and at the best step.
        best_weights: Of the best step, on the CPU; None where nothing is evaluated.
    """

    dual: DualEncoder
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopping: EarlyStopping
    step: int = 0
    evaluated: int = -1
    baseline: Figures = field(default_factory=dict)
    metrics: Figures = field(default_factory=dict)
    best_weights: dict[str, torch.Tensor] | None = None

    def state_dict(self, data: TrainingData) -> dict[str, Any]:
        """All but the best weights, which have a file of their own."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "baseline": self.baseline,
            "metrics": self.metrics,
            "stopping": self.stopping.state_dict(),
            "model": self.dual.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states(),
            "data": data.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.baseline, self.metrics = state["baseline"], state["metrics"]
        self.stopping = EarlyStopping.from_state(state["stopping"])
        self.dual.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best_weights = state["best_weights"]
        restore_random_states(state["random"])


def start_or_resume(
    config: TrainConfig, work: WorkFolder, data: TrainingData, dual: DualEncoder
) -> tuple[TrainState, History]:
    """The state before the first step, or that of the last checkpoint.

    Raises TrainingError where the checkpoint is damaged, UsageError where it was made with other
    images or captions.
    """
    device = dual.logit_scale.device.type
    state = TrainState(
        dual,
        adamw(dual, config),
        torch.amp.GradScaler(device, enabled=config.resolve_precision(device) == "fp16"),
        EarlyStopping(config.effective_patience, config.min_delta),
    )
    checkpoint = work.load()
    if checkpoint is None:
        return state, History(work.history)
    if checkpoint["data"] != data.fingerprint:
        raise UsageError(
            f"{config.manifest}: its images or captions are not those of the interrupted run in"
            f" {work.path}; put them back to continue, or start anew with --restart"
        )
    state.load_state_dict(checkpoint)
    return state, History.resume(work.history, state.step, state.evaluated)


def record_evaluation(
    state: TrainState,
    figures: tuple[RetrievalMetrics, RetrievalMetrics],
    history: History,
    steps_per_epoch: int,
) -> None:
    """Put an evaluation into state and history, and keep the weights if they are the best."""
    values: Figures = {each.direction: each.as_dict() for each in figures}
    state.evaluated = state.step
    if state.step == 0:
        state.baseline = values
    if state.stopping.update(state.step, figures[0].mrr[10]):
        state.metrics = values
        state.best_weights = {
            name: tensor.detach().cpu().clone() for name, tensor in state.dual.state_dict().items()
        }
    row: Row = {"step": state.step, "epoch": -(-state.step // steps_per_epoch)}
    for each in figures:
        prefix = DIRECTIONS[each.direction]
        row[f"{prefix}_mrr@10"] = each.mrr[10]
        row[f"{prefix}_median_rank"] = each.median_rank
        row |= {f"{prefix}_recall@{k}": each.recall[k] for k in (1, 5, 10)}
    history.append(row)
    history.flush()
