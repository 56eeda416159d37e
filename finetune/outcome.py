"""The pictures of what training changed: ranks, a batch's similarities, and single queries."""

from pathlib import Path

from finetune.answers import Answers, sample_positives
from finetune.comparison_sheet import write_run_comparison
from finetune.dataset import CaptionedImages
from finetune.encoder_folder import CHANGES_PAGE, CHANGES_PICTURE
from finetune.figures import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from finetune.plots import RANKS_PLOT, SIMILARITY_PLOT, RankedPool, plot_ranks, plot_similarity
from finetune.pool import Pool


def draw_outcome(
    folder: Path, data: CaptionedImages, pool: Pool, before: Answers | None, after: Answers
) -> list[Path]:
    """Draw ranks.png and similarity.png and, where there is a before, changes.html and .png.

    Args:
        folder: That exists.
        data: The validation split.
        pool: Of `data`.
        before: What the encoder answered over `pool` before training, None where unmeasured.
        after: The same after.

    Returns the files written. Raises ClipsearchError where one cannot be.
    """
    captions = len(pool.captions)
    matrices = {"after training": after.sample_cosines}
    if before is not None:
        matrices = {"before training": before.sample_cosines} | matrices
    ranks = [
        RankedPool(
            TEXT_TO_IMAGE,
            pool.images,
            None if before is None else before.text_ranks,
            after.text_ranks,
        ),
        RankedPool(
            IMAGE_TO_TEXT,
            captions,
            None if before is None else before.image_ranks,
            after.image_ranks,
        ),
    ]
    written = [
        plot_ranks(ranks, folder / RANKS_PLOT),
        plot_similarity(matrices, sample_positives(pool), folder / SIMILARITY_PLOT),
    ]
    if before is not None:
        for name in (CHANGES_PAGE, CHANGES_PICTURE):
            write_run_comparison(folder / name, data, pool, before, after)
            written.append(folder / name)
    return written
