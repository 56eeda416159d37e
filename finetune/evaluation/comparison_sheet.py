"""Before and after on one sheet: the queries that improved and got worse most.

A row a query: the image that was wanted, then the first results before, then those after.
Imports without torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.arrays import Int64
from finetune.data.captioned_images import CaptionedImages
from finetune.evaluation.before_after import FOUND, Answers
from finetune.evaluation.pool import Pool
from finetune.images.contact_sheet import write_sheet
from finetune.images.thumbnails import Cell

QUERIES_OF_A_KIND = 8
COLUMNS = 1 + 2 * FOUND
MOST_CELLS = 2 * QUERIES_OF_A_KIND * COLUMNS


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """A query and what is found with it.

    Attributes:
        text: The caption.
        positives: The images that are right.
        wanted: The one of them to show.
        found_before, found_after: Images that are found first, at most FOUND of each.
    """

    text: str
    positives: frozenset[int]
    wanted: int
    found_before: tuple[int, ...]
    found_after: tuple[int, ...]


def changed_most(
    before: Int64, after: Int64, count: int = QUERIES_OF_A_KIND
) -> tuple[Int64, Int64]:
    """Return the queries that improved most and those that got worse most, at most `count` of each.

    By the difference of reciprocal ranks, which is what MRR is made of: from 2 to 1 is more than
    from 200 to 100. Queries that did not change are in neither.

    Args:
        before, after: int64[q], ranks from 1.
        count: At most so many of each.
    """
    gain = 1.0 / after - 1.0 / before
    order = np.argsort(-gain, kind="stable")
    improved = order[gain[order] > 0][:count]
    worse = order[::-1][gain[order[::-1]] < 0][:count]
    return improved.astype(np.int64), worse.astype(np.int64)


def write_comparison(
    path: Path,
    data: CaptionedImages,
    before: Int64,
    after: Int64,
    query: Callable[[int], ChangedQuery],
) -> None:
    """Write the sheet, .html or .png.

    Args:
        path: See finetune.manifest.inputs.check_sheet.
        data: The n images of the pool.
        before, after: int64[q], ranks of the queries among the n images.
        query: Called with the number of each query that is shown.

    Raises UsageError for another name of the file, ClipsearchError where it cannot be written.
    """
    improved, worse = changed_most(before, after)
    better, poorer = np.count_nonzero(after < before), np.count_nonzero(after > before)
    rest = (
        f"The wanted picture, then the first {FOUND} before and after; most improved first"
        f" ({len(improved)}), then those that got worse most ({len(worse)})"
    )
    if not better and not poorer:
        rest = "Nothing changed, so that there is nothing to show"
    heading = (
        f"Of {len(after):,} captions among {len(data):,} images, {better:,} rank"
        f" better, {poorer:,} worse, {len(after) - better - poorer:,} the same. {rest}"
    )
    cells = [
        cell
        for number in np.concatenate([improved, worse])
        for cell in _row(data, query(int(number)), int(before[number]), int(after[number]))
    ]
    write_sheet(path, cells, heading, columns=COLUMNS)


def write_run_comparison(
    path: Path, data: CaptionedImages, pool: Pool, before: Answers, after: Answers
) -> None:
    """Write the sheet of a training run.

    Args:
        path: As for `write_comparison`.
        data: The validation split.
        pool: Of `data`.
        before, after: What the encoder answered over `pool`.
    """
    indptr, images = pool.text_positives

    def query(number: int) -> ChangedQuery:
        return ChangedQuery(
            text=data.captions[int(pool.captions[number])],
            positives=frozenset(images[indptr[number] : indptr[number + 1]].tolist()),
            wanted=int(after.wanted[number]),
            found_before=tuple(before.found[number].tolist()),
            found_after=tuple(after.found[number].tolist()),
        )

    write_comparison(path, data, before.text_ranks, after.text_ranks, query)


def _row(data: CaptionedImages, query: ChangedQuery, before: int, after: int) -> list[Cell]:
    cells = [
        Cell(
            image=data.sources[query.wanted],
            title=f"rank {before:,} → {after:,}: {data.ids[query.wanted]}",
            text=query.text,
        )
    ]
    for when, found in (("before", query.found_before), ("after", query.found_after)):
        for place, image in enumerate(found, 1):
            mark = " ✓" if image in query.positives else ""
            cells.append(
                Cell(
                    image=data.sources[image],
                    title=f"{when} {place}{mark}: {data.ids[image]}",
                    text=data.captions[int(data.starts[image])],
                )
            )
        blank = Cell(image=None, title="", missing="no more pictures")
        cells += [blank] * (FOUND - len(found))
    return cells
