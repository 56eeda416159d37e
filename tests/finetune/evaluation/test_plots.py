"""Plots hold what they were given: their figures are looked into before they are written."""

import io
import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune.errors import ClipsearchError
from finetune.evaluation.plots import RankedPool, plot_history, plot_ranks, plot_similarity
from finetune.figures import RETRIEVAL_COLUMNS

RANDOM = np.random.default_rng(0)


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that were written."""
    saved = []
    print_png = FigureCanvasAgg.print_png

    def write(canvas: FigureCanvasAgg, file: io.BytesIO) -> None:
        saved.append(canvas.figure)
        print_png(canvas, file)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", write)
    return saved


def unit(shape: tuple[int, int]) -> np.ndarray:
    values = RANDOM.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("pool", [2, 30, 1900])
def test_every_query_is_in_the_histogram_of_its_direction(figures, tmp_path, pool) -> None:
    before, after = (RANDOM.integers(1, pool + 1, size=(2, 500)) for _ in range(2))
    pools = [
        RankedPool("text-to-image", pool, before[0], after[0]),
        RankedPool("image-to-text", 2 * pool, None, after[1]),
    ]
    path = plot_ranks(pools, tmp_path / "ranks.png")
    assert path.stat().st_size > 5_000
    first, second = figures[0].axes
    assert [int(each.get_data().values.sum()) for each in first.patches] == [500, 500]
    assert [int(each.get_data().values.sum()) for each in second.patches] == [500]
    assert first.get_title() == f"text to image, 500 queries,\npool of {pool:,} images"
    assert second.get_title().endswith(f"pool of {2 * pool:,} captions")
    assert first.get_xscale() == ("log" if pool > 30 else "linear")
    assert first.patches[1].get_data().values[0] == np.count_nonzero(after[0] == 1)
    for axes in (first, second):
        figures[0].canvas.draw()
        counted = [*axes.get_yticks(), *axes.get_xticks()]
        assert all(tick == int(tick) for tick in counted)
        named = [each for each in axes.get_xticklabels() if each.get_text()]
        boxes = sorted((each.get_window_extent() for each in named), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_few_queries_are_counted_whole(figures, tmp_path) -> None:
    plot_ranks([RankedPool("text-to-image", 5, None, np.array([1, 3]))], tmp_path / "ranks.png")
    assert all(tick == int(tick) for tick in figures[0].axes[0].get_yticks())


def test_similarity_shows_cosines_and_marks_positives(figures, tmp_path) -> None:
    images, captions = unit((5, 8)), unit((7, 8))
    positives = np.zeros((5, 7), dtype=bool)
    positives[[0, 1, 1, 4], [0, 1, 2, 6]] = True
    before, after = images @ captions.T, unit((5, 8)) @ unit((7, 8)).T
    plot_similarity({"before": before, "after": after}, positives, tmp_path / "similarity.png")
    first, second, bar = figures[0].axes
    np.testing.assert_array_equal(first.images[0].get_array(), before)
    np.testing.assert_array_equal(second.images[0].get_array(), after)
    assert first.images[0].get_clim() == second.images[0].get_clim()
    for axes in (first, second):
        marked = {tuple(map(int, at)) for at in axes.collections[0].get_offsets()}
        assert marked == {(0, 0), (1, 1), (2, 1), (6, 4)}  # caption across, image down
    assert bar.get_ylabel() == "cosine"


def test_a_large_batch_is_cut_to_what_can_be_told_apart(figures, tmp_path) -> None:
    cosines = unit((200, 200))
    plot_similarity({"": cosines}, np.eye(200, dtype=bool), tmp_path / "similarity.png")
    assert figures[0].axes[0].images[0].get_array().shape == (64, 64)


def test_history_marks_the_weights_that_were_kept(figures, tmp_path) -> None:
    rows = [{"step": 1, "epoch": 1, "loss": 2.0, "learning_rate": 1e-4}]
    for step in (0, 1):
        values = dict.fromkeys((*RETRIEVAL_COLUMNS, "hits@1", "val_loss"), step / 2)
        rows.append({"step": step, "epoch": 1} | values)
    plot_history(rows, tmp_path, pool=1234, best_step=1)
    assert [figure.axes[0].get_title() for figure in figures] == [
        "Loss",
        "Learning rate",
        "Validation, global, pool of 1,234 images",
    ]
    lines = {line.get_label(): line for line in figures[2].axes[0].lines}
    assert list(lines["weights that were kept"].get_xdata()) == [1, 1]
    for name in ("text to image mrr@10", "zero-shot hits@1"):
        assert list(lines[name].get_ydata()) == [0, 0.5]
    assert list(figures[1].axes[0].lines[0].get_ydata()) == [1e-4]
    # of a run of one step a line alone would be invisible
    loss = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert list(loss) == ["training, each step", "validation"]
    assert loss["training, each step"].get_marker() == "."
    assert list(loss["validation"].get_ydata()) == [0, 0.5]


def test_a_folder_that_is_gone(tmp_path) -> None:
    with pytest.raises(ClipsearchError, match=r"ranks\.png: cannot be written"):
        ranks = np.array([1, 2])
        plot_ranks([RankedPool("text-to-image", 3, ranks, ranks)], tmp_path / "no" / "ranks.png")


def test_no_state_is_left_behind(tmp_path) -> None:
    code = f"""
        import sys
        import finetune.evaluation.plots as plots
        assert "matplotlib" not in sys.modules
        import matplotlib, numpy as np, pathlib
        before = [matplotlib.rcParams[name] for name in plots.STYLE]
        ranks = np.array([1, 2, 3])
        plots.plot_ranks(
            [plots.RankedPool("text-to-image", 3, ranks, ranks)],
            pathlib.Path({str(tmp_path)!r}) / "ranks.png",
        )
        assert [matplotlib.rcParams[name] for name in plots.STYLE] == before
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
