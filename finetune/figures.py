"""The figures of an evaluation: their names, which way is better, and the record that holds them.

Training, `clipsearch evaluate`, history.csv, metrics.json and the model card take them from here.
A new figure to steer training by is one entry of RETRIEVAL_AT_CUTOFFS, CLASSES_AT_CUTOFFS, RANKS or
OTHERS, and its computation: in `finetune.evaluation.metrics.query_figures` (of ranks),
`finetune.evaluation.zero_shot.class_figures` (of classes) or
`finetune.evaluation.validation.ValidationResult.row` (of anything else). Imports nothing heavy.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from finetune.errors import UsageError

# By column of history.csv.
HistoryRow = dict[str, float]
# Of `Measurement.as_flat_dict`.
FlatFigures = dict[str, str | int | float]
Direction = Literal["text-to-image", "image-to-text"]
Better = Literal["higher", "lower"]

TEXT_TO_IMAGE: Direction = "text-to-image"
IMAGE_TO_TEXT: Direction = "image-to-text"
ZERO_SHOT = "zero-shot"
GLOBAL = "global"
# Every evaluation has figures at these, and at those that are asked for besides.
CUTOFFS = (1, 5, 10)
CLASS_CUTOFFS = (1, 3, 5, 10)
MEAN_RANK, MEDIAN_RANK = "mean_rank", "median_rank"
VALIDATION_LOSS = "val_loss"


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked with, and among what.

    Attributes:
        name: As JSON and people name it.
        prefix: Of its columns in history.csv.
        queries, candidates: What they are.
        tested: The figure that says which of two encoders is better.
        hub: The task's id on the Hugging Face hub, and its name for people there.
    """

    name: str
    prefix: str
    queries: str
    candidates: str
    tested: str
    hub: tuple[str, str]

    @property
    def title(self) -> str:
        """The name for people: "text to image"."""
        return self.name.replace("-to-", " to ")


TASKS = {
    task.name: task
    for task in (
        Task(
            name=TEXT_TO_IMAGE,
            prefix="t2i_",
            queries="captions",
            candidates="images",
            tested="mrr@10",
            hub=("text-to-image-retrieval", "Text-to-image retrieval"),
        ),
        Task(
            name=IMAGE_TO_TEXT,
            prefix="i2t_",
            queries="images",
            candidates="captions",
            tested="mrr@10",
            hub=("image-to-text-retrieval", "Image-to-text retrieval"),
        ),
        Task(
            name=ZERO_SHOT,
            prefix="",
            queries="images",
            candidates="classes",
            tested="mrr",
            hub=("zero-shot-image-classification", "Zero-shot image classification"),
        ),
    )
}
DIRECTIONS: tuple[Direction, Direction] = (TEXT_TO_IMAGE, IMAGE_TO_TEXT)

# By figure, which way is better. The first two exist at any cutoff: mrr@10.
RETRIEVAL_AT_CUTOFFS: dict[str, Better] = {"mrr": "higher", "recall": "higher", "ndcg": "higher"}
CLASSES_AT_CUTOFFS: dict[str, Better] = {"hits": "higher"}
RANKS: dict[str, Better] = {MEAN_RANK: "lower", MEDIAN_RANK: "lower"}
OTHERS: dict[str, Better] = {VALIDATION_LOSS: "lower"}
# Told at the last cutoff alone.
_AT_THE_LAST = ("ndcg",)


def cutoffs_with(more: Iterable[int], least: Iterable[int] = CUTOFFS) -> tuple[int, ...]:
    """Return an evaluation's cutoffs: `least` and those it is asked for, in order, each once."""
    return tuple(sorted({*least, *more}))


def retrieval_figures(ks: Collection[int] = CUTOFFS) -> dict[str, Better]:
    """Return, by figure of retrieval, which way is better; nDCG is told at the last cutoff."""
    last = tuple(dict.fromkeys((max(CUTOFFS), max(ks))))
    figures = {
        f"{name}@{k}": better
        for name, better in RETRIEVAL_AT_CUTOFFS.items()
        for k in (last if name in _AT_THE_LAST else ks)
    }
    return figures | RANKS


def class_figures_of(ks: Iterable[int] = CLASS_CUTOFFS) -> dict[str, Better]:
    """Return, by figure of classes at these cutoffs, which way is better."""
    ks = tuple(ks)
    return {f"{name}@{k}": better for name, better in CLASSES_AT_CUTOFFS.items() for k in ks}


# A figure that exists at any cutoff, as `--metric` takes it.
_AT_CUTOFF = re.compile(
    f"(?P<prefix>{'|'.join(TASKS[task].prefix for task in DIRECTIONS)}|)"
    f"(?P<name>{'|'.join((*RETRIEVAL_AT_CUTOFFS, *CLASSES_AT_CUTOFFS))})@(?P<k>[1-9]\\d{{0,5}})"
)


@dataclass(frozen=True, slots=True)
class Metric:
    """What training is steered by: a figure of a task, and a column of history.csv.

    Attributes:
        figure: Its name in a measurement.
        better: Which way.
        task: That it is a figure of; None where it is of none, as the loss.
    """

    figure: str
    better: Better
    task: str | None = None

    @property
    def column(self) -> str:
        """Of evaluations in history.csv; the name that `--metric` takes."""
        return self.figure if self.task is None else f"{TASKS[self.task].prefix}{self.figure}"

    @property
    def cutoff(self) -> int | None:
        """The k of mrr@k and its like; None where the figure has none."""
        _, at, k = self.figure.partition("@")
        return int(k) if at else None

    @property
    def is_zero_shot(self) -> bool:
        """Whether the images' classes are needed."""
        return self.task == ZERO_SHOT

    def score(self, row: Mapping[str, float]) -> float:
        """Return the figure in an evaluation's row such that more is better."""
        value = row[self.column]
        return -value if self.better == "lower" else value

    @classmethod
    def parse(cls, name: str) -> "Metric":
        """Read what a user writes; "mrr@10" is "t2i_mrr@10", and "loss" is "val_loss".

        What people write without a direction is meant as text to image: that is what a search does.
        Any cutoff will do: "i2t_recall@3".

        Raises UsageError for a figure that evaluations do not have.
        """
        for column in (name, f"{TASKS[TEXT_TO_IMAGE].prefix}{name}", f"val_{name}"):
            if column in METRICS:
                return METRICS[column]
        found = _AT_CUTOFF.fullmatch(name)
        of_classes = found is not None and found["name"] in CLASSES_AT_CUTOFFS
        if found is None or (of_classes and found["prefix"]):
            raise UsageError(
                f"--metric {name} is not measured; give one of {', '.join(METRICS)}, or another"
                f" number after @"
            )
        if of_classes:
            return cls(name, CLASSES_AT_CUTOFFS[found["name"]], ZERO_SHOT)
        prefix = found["prefix"] or TASKS[TEXT_TO_IMAGE].prefix
        task = next(task for task in DIRECTIONS if TASKS[task].prefix == prefix)
        return cls(name.removeprefix(prefix), RETRIEVAL_AT_CUTOFFS[found["name"]], task)


def metrics_at(ks: Collection[int] = CUTOFFS) -> dict[str, Metric]:
    """Return, by column of history.csv, all that an evaluation with these cutoffs measures."""
    retrieval, classes = retrieval_figures(ks), class_figures_of(cutoffs_with(ks, CLASS_CUTOFFS))
    metrics = (
        *(Metric(name, better, task) for task in DIRECTIONS for name, better in retrieval.items()),
        *(Metric(name, better) for name, better in OTHERS.items()),
        *(Metric(name, better, ZERO_SHOT) for name, better in classes.items()),
    )
    return {metric.column: metric for metric in metrics}


METRICS = metrics_at()
RETRIEVAL_COLUMNS = tuple(name for name, metric in METRICS.items() if metric.task in DIRECTIONS)


def is_evaluation(row: Mapping[str, float]) -> bool:
    """Return whether a row of history.csv is an evaluation's, not a step's."""
    return "loss" not in row


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure's value, and the ends of its interval where one was drawn."""

    value: float
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Return it for JSON; the ends are there only where there is an interval."""
        ends = {"low": self.low, "high": self.high}
        return {"value": self.value} | {n: end for n, end in ends.items() if end is not None}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one or two encoders.

    Attributes:
        name: `mrr@10` and so on.
        estimate: Of the encoder.
        against: Of the other encoder, over the same queries.
        difference: `estimate` minus `against`.
        p_value: That the difference is zero, by sign flips; None for a median, which is no mean
            over the queries.
    """

    name: str
    estimate: Estimate
    against: Estimate | None = None
    difference: Estimate | None = None
    p_value: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON; what compares is there only where there are two encoders."""
        values: dict[str, object] = dict(self.estimate.as_dict())
        if self.against is not None and self.difference is not None:
            values["against"] = self.against.as_dict()
            values["difference"] = self.difference.as_dict() | {"p_value": self.p_value}
        return values


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures of one task over one pool; `measurement["mrr@10"]` is the value of one.

    mrr@k is the mean of 1 / rank of the best positive, 0 where that is above k. recall@k is the
    share of queries with a positive among the first k, as in the literature on captions (Karpathy
    and Fei-Fei 2015, arXiv:1412.2306), and hits@k the same of an image's class. ndcg@k has binary
    gains and the discount 1 / log2(rank + 1) (Järvelin and Kekäläinen 2002), over the ideal order
    of the query's positives. mean_rank and median_rank are of the best positive, from 1.

    Attributes:
        task: A name of TASKS.
        scope: "global", or the batches that the pool was cut into.
        pool: Candidates that every query ranks.
        queries: How many were asked; those without a positive are none.
        figures: In the order in which they are read.
    """

    task: str
    scope: str
    pool: int
    queries: int
    figures: tuple[Figure, ...]

    @classmethod
    def of(
        cls, task: str, pool: int, queries: int, values: Mapping[str, float], scope: str = GLOBAL
    ) -> Self:
        """Build one without intervals, from each figure's value by its name."""
        figures = tuple(Figure(name, Estimate(float(value))) for name, value in values.items())
        return cls(task, scope, pool, queries, figures)

    def figure(self, name: str) -> Figure:
        """Return the figure of this name, without its scope. Raises KeyError."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)

    def __getitem__(self, name: str) -> float:
        return self.figure(name).estimate.value

    @property
    def key(self) -> str:
        """What tells it from the other measurements of an evaluation."""
        return self.task if self.scope == GLOBAL else f"{self.task} {self.scope}"

    def full_name(self, figure: Figure) -> str:
        """Return a figure's name, which ends in the scope where that is not global.

        So `mrr@10 in batches of 64` is never taken for `mrr@10`.
        """
        return figure.name if self.scope == GLOBAL else f"{figure.name} {self.scope}"

    def values(self) -> dict[str, float]:
        """Return each figure's value by its full name."""
        return {self.full_name(figure): figure.estimate.value for figure in self.figures}

    def as_flat_dict(self) -> FlatFigures:
        """Return the figures without intervals, as metrics.json and checkpoints hold them.

        These are direction (the task), scope, pool, queries, then `mrr@10` and so on.
        """
        about = {"direction": self.task, "scope": self.scope}
        return {**about, "pool": self.pool, "queries": self.queries, **self.values()}

    @classmethod
    def from_flat_dict(cls, flat: Mapping[str, Any]) -> Self:
        """Read back what `as_flat_dict` returns."""
        values = dict(flat)
        task, scope = str(values.pop("direction")), str(values.pop("scope"))
        pool, queries = int(values.pop("pool")), int(values.pop("queries"))
        end = f" {scope}"
        figures = {name.removesuffix(end): float(value) for name, value in values.items()}
        return cls.of(task, pool, queries, figures, scope)


def flat_by_key(measurements: Iterable[Measurement]) -> dict[str, FlatFigures]:
    """Return an evaluation's measurements, as `Measurement.as_flat_dict`, by their keys."""
    return {each.key: each.as_flat_dict() for each in measurements}


def either(names: Collection[str]) -> str:
    """Name them all for people, the last after an "or"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
