"""The settings of how a training run is evaluated, and by what it is steered.

Imports without torch.
"""
# what these calls give is a field

from dataclasses import dataclass
from functools import partial

from finetune.config.setting import Group, setting
from finetune.figures import (
    OTHERS,
    Metric,
    class_figures_of,
    cutoffs_with,
    either,
    metrics_at,
    retrieval_figures,
)
from finetune.split_shares import DEFAULT_HOLD_OUT, DEFAULT_SHARES

DEFAULT_PATIENCE = 5

in_evaluation = partial(setting, Group.EVALUATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is measured on the validation split, when, and which figure decides."""

    split_shares: tuple[float, ...] = in_evaluation(
        DEFAULT_SHARES,
        "Where the manifest names no splits: shares of train, val and test, by a hash of the id.",
        metavar="TRAIN,VAL[,TEST]",
    )
    hold_out: float = in_evaluation(
        DEFAULT_HOLD_OUT,
        "Where there is no split val: the share of train that is evaluated on instead, by a hash of"
        " the id; 0 holds none out.",
        metavar="SHARE",
        least=0,
        below=1,
    )
    eval_every: int | str = in_evaluation(
        "epoch",
        "Rank the validation pool after each epoch, every N steps, or never.",
        metavar="epoch|N|never",
        choices=("epoch", "never"),
        number="a number of steps",
        least=1,
    )
    metric: str = in_evaluation(
        "t2i_mrr@10",
        f"What is best: t2i_ or i2t_ with {either(retrieval_figures())}; {either(OTHERS)};"
        f" {either(class_figures_of())} of classes; and any other number after @.",
        metavar="METRIC",
    )
    ks: tuple[int, ...] = in_evaluation(
        (),
        "Report figures at these cutoffs too, such as 3,20, beside 1, 5 and 10.",
        metavar="N,N,…",
        least=1,
        operational=True,
    )
    patience: int | None = in_evaluation(
        None,
        "Stop after so many evaluations without a better metric; 0 never stops early.",
        otherwise=f"{DEFAULT_PATIENCE}, or 0 where nothing is evaluated",
        least=0,
    )
    min_delta: float = in_evaluation(
        0.0, "What the metric must gain to count for --patience.", least=0
    )
    keep_best: int = in_evaluation(
        1, "Keep the best so many; all but the best go to FOLDER.step-N.", least=1
    )
    zero_shot_classes: str | None = in_evaluation(
        None,
        "Evaluate the choice among classes too: the column or file that names each image's.",
        flag="--zero-shot",
        formerly="--zero-shot-classes",
        metavar="COLUMN|FILE|FOLDER",
    )
    zero_shot_template: tuple[str, ...] = in_evaluation(
        ("a photo of a {category}",),
        "A prompt for a class; give it several times.",
        flag="--template",
        formerly="--zero-shot-template",
        metavar="TEXT",
        repeated=True,
    )
    batches_of: int | None = in_evaluation(
        None,
        "Report figures within batches of N too, as papers do.",
        flag="--in-batches",
        formerly="--batches-of",
        least=2,
        operational=True,
    )
    batches_in_file_order: bool = in_evaluation(
        False,
        "Make the batches of --in-batches of pairs as they follow in the manifest, and count a last"
        " smaller one; else they are shuffled, and it is left out.",
        flag="--in-file-order",
        formerly="--batches-in-file-order",
        operational=True,
    )

    @property
    def evaluates(self) -> bool:
        """Whether the validation pool is ranked at all."""
        return self.eval_every != "never"

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Of the figures of an evaluation, in order."""
        steered_by = Metric.parse(self.metric).cutoff
        return cutoffs_with((*self.ks, *(() if steered_by is None else (steered_by,))))

    @property
    def measured(self) -> dict[str, Metric]:
        """By column of history.csv, what an evaluation measures."""
        metric = Metric.parse(self.metric)
        return metrics_at(self.cutoffs) | {metric.column: metric}
