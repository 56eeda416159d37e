import numpy as np
import pytest

from finetune.evaluation.intervals import Sampling, measure
from finetune.evaluation.metrics import query_figures, summarize

QUICK = Sampling(resamples=300)


def ranks_of(seed: int, queries: int = 200, scale: float = 12) -> np.ndarray:
    return 1 + np.random.default_rng(seed).exponential(scale, size=queries).astype(np.int64)


def measured(*ranks: np.ndarray, clusters: np.ndarray | None = None, **values):
    ones = np.ones(len(ranks[0]), np.int64)
    return measure(
        "text-to-image",
        500,
        [query_figures(each[:, np.newaxis], ones) for each in ranks],
        ranks,
        np.arange(len(ranks[0])) if clusters is None else clusters,
        sampling=QUICK,
        **values,
    )


def test_values_are_those_of_the_metrics_and_lie_in_their_intervals() -> None:
    ranks = ranks_of(0)
    found = measured(ranks)
    expected = summarize("text-to-image", 500, ranks[:, np.newaxis], np.ones(200, np.int64))
    figures = {figure.name: figure.estimate for figure in found.figures}
    wanted = expected.values()
    assert {name: estimate.value for name, estimate in figures.items()} == pytest.approx(
        {name: wanted[name] for name in figures}
    )
    assert all(each.low <= each.value <= each.high for each in figures.values())
    assert figures["mean_rank"].low < figures["mean_rank"].high
    assert (found.queries, found.clusters, found.pool) == (200, 200, 500)
    assert found.figures[0].p_value is None


def test_a_better_encoder_is_found_better_and_the_other_way_round() -> None:
    good, poor = ranks_of(0, scale=4), ranks_of(1, scale=12)
    found, reverse = measured(good, poor), measured(poor, good)
    for figure, mirrored in zip(found.figures, reverse.figures, strict=True):
        assert figure.difference is not None
        assert mirrored.difference is not None
        assert figure.against is not None
        assert figure.difference.value == pytest.approx(-mirrored.difference.value)
        assert figure.difference.low == pytest.approx(-mirrored.difference.high)
        assert figure.estimate.value - figure.against.value == pytest.approx(
            figure.difference.value
        )
        assert figure.p_value == mirrored.p_value
        better = figure.difference.high < 0 if "rank" in figure.name else figure.difference.low > 0
        assert better, figure.name
    assert found.figure("mrr@10").p_value == pytest.approx(1 / 301)
    assert found.figure("median_rank").p_value is None


def test_the_difference_is_paired() -> None:
    # Queries differ much, encoders little: only side by side can it be seen.
    poor = ranks_of(0, scale=40) + 1
    found = measured(poor - 1, poor)
    figure = found.figure("mean_rank")
    assert figure.difference is not None
    assert (figure.difference.low, figure.difference.high) == (-1, -1)
    assert figure.estimate.high > figure.against.low


def test_the_same_encoder_twice_differs_by_nothing() -> None:
    found = measured(ranks_of(0), ranks_of(0))
    for figure in found.figures:
        assert figure.difference is not None
        assert figure.difference.as_dict() == {"value": 0, "low": 0, "high": 0}
        assert figure.p_value in (None, 1.0)


def test_captions_of_one_image_widen_the_interval() -> None:
    ranks = np.repeat(ranks_of(0, 40), 5)
    alone = measured(ranks).figure("mrr@10").estimate
    together = measured(ranks, clusters=np.repeat(np.arange(40), 5))
    assert together.clusters == 40
    estimate = together.figure("mrr@10").estimate
    assert estimate.value == pytest.approx(alone.value)
    assert estimate.high - estimate.low > 1.5 * (alone.high - alone.low)


def test_figures_in_batches_are_never_taken_for_global_ones() -> None:
    values = measured(ranks_of(0), scope="in batches of 64").as_dict()
    assert "mrr@10 in batches of 64" in values["figures"]
    assert "mrr@10" not in values["figures"]
    assert "mrr@10" in measured(ranks_of(0)).as_dict()["figures"]
