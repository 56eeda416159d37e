"""The metrics of retrieval, for use from outside; they live in `finetune.evaluation.metrics`."""

from typing import TYPE_CHECKING

from finetune.public_names import loader

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

__getattr__ = loader(__name__, dict.fromkeys(__all__, "finetune.evaluation.metrics"))
