"""The metrics of retrieval, for use from outside; they live in `finetune.evaluation.metrics`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.evaluation.metrics import (
        BatchRanks,
        batch_ranks,
        best_ranks,
        in_batches,
        positive_ranks,
        query_figures,
        summarize,
        text_to_image,
    )

__all__ = [
    "BatchRanks",
    "batch_ranks",
    "best_ranks",
    "in_batches",
    "positive_ranks",
    "query_figures",
    "summarize",
    "text_to_image",
]

_HOMES = {
    "BatchRanks": "finetune.evaluation.metrics",
    "batch_ranks": "finetune.evaluation.metrics",
    "best_ranks": "finetune.evaluation.metrics",
    "in_batches": "finetune.evaluation.metrics",
    "positive_ranks": "finetune.evaluation.metrics",
    "query_figures": "finetune.evaluation.metrics",
    "summarize": "finetune.evaluation.metrics",
    "text_to_image": "finetune.evaluation.metrics",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that a part of this room imports without the rest."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'finetune.metrics' has no attribute {name!r}")
