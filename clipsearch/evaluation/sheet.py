"""The before-and-after sheet of two encoders that were measured side by side."""

from pathlib import Path

import numpy as np

from clipsearch.evaluation.measures import Retrieval
from finetune.evaluation.before_after import FOUND, nearest
from finetune.evaluation.comparison_sheet import ChangedQuery
from finetune.evaluation.comparison_sheet import write_comparison as write_sheet_of_changes
from finetune.evaluation.intervals import RankedMeasurement

ENCODER, AGAINST = 0, 1


def write_comparison(path: Path, retrieval: Retrieval, measurement: RankedMeasurement) -> None:
    """Write the sheet, .html or .png; `before` is the encoder that is compared with.

    Args:
        path: Checked by finetune.manifest.inputs.check_sheet.
        retrieval: Of two encoders.
        measurement: Text to image, over the whole pool.
    """
    indptr, indices = retrieval.pool.text_positives

    def found(encoder: int, number: int) -> tuple[int, ...]:
        text = retrieval.text_embeds[encoder][number : number + 1]
        return tuple(nearest(text, retrieval.image_embeds[encoder], FOUND)[0].tolist())

    def query(number: int) -> ChangedQuery:
        # Of several right images, the one that the encoder finds first.
        own = indices[indptr[number] : indptr[number + 1]]
        scores = retrieval.image_embeds[ENCODER][own] @ retrieval.text_embeds[ENCODER][number]
        return ChangedQuery(
            text=retrieval.caption(number),
            positives=frozenset(own.tolist()),
            wanted=int(own[int(np.argmax(scores))]),
            found_before=found(AGAINST, number),
            found_after=found(ENCODER, number),
        )

    ranks = measurement.ranks
    write_sheet_of_changes(path, retrieval.data, ranks[AGAINST], ranks[ENCODER], query)
