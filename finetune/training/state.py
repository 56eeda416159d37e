"""What changes from step to step, from the start or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from finetune.config.run_parts import Start
from finetune.data.hard_negatives import Int32
from finetune.data.loader import TrainingData
from finetune.data.world import World
from finetune.errors import UsageError
from finetune.figures import Measurement, Metric, flat_by_key
from finetune.models.dual_encoder import DualEncoder
from finetune.optimization.precisions import resolve_precision
from finetune.training.checkpoint import WorkFolder, random_states, restore_random_states
from finetune.training.early_stopping import EarlyStopping
from finetune.training.ema import MovingAverage
from finetune.training.history import History
from finetune.training.prepare import build_optimizer
from finetune.training.run_cost import RunCost


@dataclass(slots=True)
class TrainState:
    """What changes from step to step; all of it is in a checkpoint.

    Attributes:
        step: Steps done.
        evaluated: The step that was evaluated last, -1 before the first.
        baseline, metrics: What was measured at step 0 and at the best step.
        kept: Steps whose weights are kept, the best first, with their scores.
        average: Of the weights, where one is evaluated and exported instead.
        neighbours: Of the images, by which batches of this epoch are made.
        cost: What the run took so far.
    """

    dual: DualEncoder
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stopping: EarlyStopping
    step: int = 0
    evaluated: int = -1
    baseline: tuple[Measurement, ...] = ()
    metrics: tuple[Measurement, ...] = ()
    kept: dict[int, float] = field(default_factory=dict)
    average: MovingAverage | None = None
    neighbours: Int32 | None = None
    cost: RunCost = field(default_factory=RunCost)

    def state_dict(self, data: TrainingData) -> dict[str, Any]:
        """Return all but the kept weights, which have files of their own."""
        near = self.neighbours
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "baseline": flat_by_key(self.baseline),
            "metrics": flat_by_key(self.metrics),
            "kept": self.kept,
            "stopping": self.stopping.state_dict(),
            "model": self.dual.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "neighbours": None if near is None else torch.from_numpy(near),
            "random": random_states(),
            "cost": asdict(self.cost),
            "data": data.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.baseline, self.metrics = (
            tuple(map(Measurement.from_flat_dict, state[name].values()))
            for name in ("baseline", "metrics")
        )
        self.kept = dict(state["kept"])
        self.stopping = EarlyStopping.from_state(state["stopping"])
        self.dual.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        near = state["neighbours"]
        self.neighbours = None if near is None else near.numpy()
        self.cost = self.cost.resumed(state.get("cost"), self.step)
        restore_random_states(state["random"])

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimizer steps."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def start_or_resume(
    start: Start, work: WorkFolder, data: TrainingData, dual: DualEncoder, world: World
) -> tuple[TrainState, History]:
    """Return the state before the first step, or that of the last checkpoint.

    Raises TrainingError where the checkpoint is damaged, UsageError where it was made with other
    images or captions.
    """
    device = world.device.type
    precision = resolve_precision(start.precision, device)
    state = TrainState(
        dual,
        build_optimizer(dual, start.optimization),
        torch.amp.GradScaler(device, enabled=precision.scales_loss),
        EarlyStopping(start.patience, start.min_delta),
        average=None if start.ema is None else MovingAverage(dual, start.ema),
    )
    checkpoint = world.from_first(work.load)
    if checkpoint is None:
        return state, History(work.history, measured=start.measured)
    if checkpoint["data"] != data.fingerprint:
        raise UsageError(
            f"{data.splits.manifest}: its images or captions are not those of the interrupted run"
            f" in {work.path}; put them back to continue, or start anew with --restart"
        )
    state.load_state_dict(checkpoint)
    return state, History.resume(work.history, state.step, state.evaluated, start.measured)


def record_evaluation(
    state: TrainState,
    values: Mapping[str, float],
    measurements: tuple[Measurement, ...],
    history: History,
    steps_per_epoch: int,
    metric: Metric,
    keep: int,
) -> bool:
    """Put an evaluation into state and history; whether its weights are to be kept.

    Args:
        state, history: Are changed.
        values: Of the weights as they are, `Evaluation.row`.
        measurements: Of `Evaluator.measurements`.
        steps_per_epoch: For the history.
        metric: What is best.
        keep: Weights that are kept at most.
    """
    state.evaluated = state.step
    score = metric.score(values)
    if state.step == 0:
        state.baseline = measurements
    if state.stopping.update(state.step, score):
        state.metrics = measurements
    history.append({"step": state.step, "epoch": -(-state.step // steps_per_epoch), **values})
    history.flush()
    # of equal scores the first is better, as for `EarlyStopping.best`
    ranked = sorted((state.kept | {state.step: score}).items(), key=lambda item: -item[1])
    state.kept = dict(ranked[:keep])
    return state.step in state.kept
