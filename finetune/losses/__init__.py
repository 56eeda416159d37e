"""Losses of dual encoders, one a file, all called alike.

Imports without torch until a loss is built. A new loss is a file here and a line in LOSSES; its
options are settings of the same name.

>>> loss = build_loss("contrastive", dual, label_smoothing=0.1)
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.errors import UsageError
from finetune.ranges import Range

if TYPE_CHECKING:
    from finetune.losses.loss import BiasedModel, Loss


# Of the contrastive loss; CLIP's (arXiv:2103.00020, section 2.5).
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True, slots=True)
class LossOption:
    """A setting that belongs to a loss.

    Attributes:
        range: Its numbers.
        unset: Its value where nobody asks for anything.
    """

    range: Range
    unset: float = 0.0


@dataclass(frozen=True, slots=True)
class LossKind:
    """A loss that is imported when it is built.

    Attributes:
        module, name: Of the class, a `finetune.losses.loss.Loss`.
        whose: The models that were first trained with it, for people: "CLIP's".
        options: Settings that not every loss has.
    """

    module: str
    name: str
    whose: str
    options: Mapping[str, LossOption] = field(default_factory=dict)


LOSSES: Mapping[str, LossKind] = {
    "contrastive": LossKind(
        "finetune.losses.contrastive",
        "ContrastiveLoss",
        "CLIP's",
        {
            "label_smoothing": LossOption(Range(least=0, below=1)),
            "hard_negative_beta": LossOption(Range(least=0)),
            "max_logit_scale": LossOption(Range(above=1, or_zero=True), MAX_LOGIT_SCALE),
        },
    ),
    "sigmoid": LossKind("finetune.losses.sigmoid", "SigmoidLoss", "SigLIP's"),
}
OPTIONS: Mapping[str, LossOption] = {
    name: option for kind in LOSSES.values() for name, option in kind.options.items()
}


def losses_with(option: str) -> str:
    """Return the losses that take the option, for people."""
    return " and ".join(name for name, kind in LOSSES.items() if option in kind.options)


def check_loss(name: str, options: Mapping[str, float]) -> None:
    """Raise UsageError for an unknown name, a value out of range, or an option of another loss."""
    if name not in LOSSES:
        raise UsageError(f"--loss must be one of {', '.join(LOSSES)}, not {name}")
    own = LOSSES[name].options
    for option, value in options.items():
        flag = "--" + option.replace("_", "-")
        OPTIONS[option].range.check(flag, value)
        if value != OPTIONS[option].unset and option not in own:
            raise UsageError(
                f"{flag} {value} is for --loss {losses_with(option)};"
                f" leave it out with --loss {name}"
            )


def build_loss(name: str, dual: "BiasedModel", **options: float) -> "Loss":
    """Build the loss of that name, for this model.

    Call it before the optimizer is made: a loss that needs a bias gives one to a model without.

    Args:
        name: One of LOSSES.
        dual: The model that will be trained.
        options: Of OPTIONS; those of other losses must be unset.

    Raises UsageError as `check_loss`.
    """
    check_loss(name, options)
    wanted = LOSSES[name]
    kind = getattr(importlib.import_module(wanted.module), wanted.name)
    own = {option: value for option, value in options.items() if option in wanted.options}
    bias = {"logit_bias": dual.ensure_logit_bias()} if kind.needs_bias else {}
    loss: Loss = kind(**own, **bias)
    return loss
