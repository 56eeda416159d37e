"""Before and after on one sheet: the queries that improved and got worse most.

A row a query: the picture that was wanted, then the first results of the encoder it is compared
with, then those of the encoder.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.measures import Retrieval
from finetune.measurement import Measurement
from finetune.sheet import Cell, write_sheet

Ids = npt.NDArray[np.int64]

QUERIES_OF_A_KIND = 8
RESULTS = 3
COLUMNS = 1 + 2 * RESULTS
MOST_CELLS = 2 * QUERIES_OF_A_KIND * COLUMNS

ENCODER, AGAINST = 0, 1


def changed_most(ranks: Ids, count: int = QUERIES_OF_A_KIND) -> tuple[Ids, Ids]:
    """The queries that improved most and those that got worse most, at most `count` of each.

    By the difference of reciprocal ranks, which is what is tested: from 2 to 1 is more than from
    200 to 100. Queries that did not change are in neither.

    Args:
        ranks: int64[2, q], of the encoder and of the one it is compared with.
        count: At most so many of each.
    """
    gain = 1.0 / ranks[ENCODER] - 1.0 / ranks[AGAINST]
    order = np.argsort(-gain, kind="stable")
    improved = order[gain[order] > 0][:count]
    worse = order[::-1][gain[order[::-1]] < 0][:count]
    return improved.astype(np.int64), worse.astype(np.int64)


def write_comparison(path: Path, retrieval: Retrieval, measurement: Measurement) -> None:
    """Write the sheet, .html or .png.

    Args:
        path: Checked by finetune.sheet.check_sheet.
        retrieval: Of two encoders.
        measurement: Text to image, over the whole pool.
    """
    improved, worse = changed_most(measurement.ranks)
    better = int(np.count_nonzero(measurement.ranks[ENCODER] < measurement.ranks[AGAINST]))
    poorer = int(np.count_nonzero(measurement.ranks[ENCODER] > measurement.ranks[AGAINST]))
    same = measurement.queries - better - poorer
    heading = (
        f"Of {measurement.queries:,} captions among {measurement.pool:,} images, {better:,} rank"
        f" better, {poorer:,} worse, {same:,} the same. The wanted picture, then the first"
        f" {RESULTS} before and after; most improved first"
        f" ({len(improved)}), then those that got worse most ({len(worse)})"
    )
    cells = [
        cell
        for query in np.concatenate([improved, worse])
        for cell in _row(retrieval, measurement.ranks[:, query], int(query))
    ]
    write_sheet(path, cells, heading, columns=COLUMNS)


def _row(retrieval: Retrieval, ranks: Ids, query: int) -> list[Cell]:
    indptr, indices = retrieval.pool.text_positives
    wanted = set(indices[indptr[query] : indptr[query + 1]].tolist())
    # Of several right pictures, the one that the encoder finds first.
    own = sorted(wanted)
    scores = retrieval.image_embeds[ENCODER][own] @ retrieval.text_embeds[ENCODER][query]
    shown = own[int(np.argmax(scores))]
    cells = [
        Cell(
            image=retrieval.data.sources[shown],
            title=f"rank {ranks[AGAINST]:,} → {ranks[ENCODER]:,}: {retrieval.data.ids[shown]}",
            text=retrieval.caption(query),
        )
    ]

    def mark(image: int) -> str:
        return " ✓" if image in wanted else ""

    for encoder, when in ((AGAINST, "before"), (ENCODER, "after")):
        scores = retrieval.image_embeds[encoder] @ retrieval.text_embeds[encoder][query]
        found = np.argsort(-scores, kind="stable")[:RESULTS]
        cells += [
            Cell(
                image=retrieval.data.sources[image],
                title=f"{when} {place}{mark(image)}: {retrieval.data.ids[image]}",
                text=_first_caption(retrieval, int(image)),
            )
            for place, image in enumerate(found, 1)
        ]
        blank = Cell(image=None, title="", missing="no more pictures")
        cells += [blank] * (RESULTS - len(found))
    return cells


def _first_caption(retrieval: Retrieval, image: int) -> str:
    return retrieval.data.captions[int(retrieval.data.starts[image])]
