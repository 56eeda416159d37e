from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.config.batch_plan import BatchPlan
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.data.samples import apportion, epoch_samples
from finetune.errors import UsageError
from finetune.images.source import ImageSource


def images_of(sizes: list[int], captions: int = 1) -> CaptionedImages:
    """Images of so many datasets, of these sizes, with so many captions each."""
    data = captioned_images(
        (f"{i}", ImageSource(Path(f"{i}.png")), [f"{i} {j}" for j in range(captions)])
        for i in range(sum(sizes))
    )
    return replace(data, datasets=np.repeat(np.arange(len(sizes)), sizes))


@settings(deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.floats(0, 1e6) | st.integers(0, 5), min_size=1, max_size=6).filter(any),
)
@example(total=1, weights=[2e-309])
@example(total=10, weights=[1e308, 1e308, 1e308])
def test_shares_are_within_one_of_the_weights(total, weights) -> None:
    counts = apportion(total, tuple(weights))
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        exact = total * Fraction(weight) / sum(map(Fraction, weights))
        assert abs(count - exact) < 1 + 1e-9
        assert weight > 0 or count == 0


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=4),
    st.integers(10, 80),
    st.integers(0, 9),
    st.sampled_from(["sampled", "all"]),
    st.integers(0, 3),
)
def test_weighted_datasets_go_round_evenly(sizes, total, epochs, captions, seed) -> None:
    data = images_of(sizes, captions=3)
    weights = tuple(float(i + 1) for i in range(len(sizes)))
    plan = BatchPlan(8, seed, total, captions, weights)
    seen: Counter[int] = Counter()
    for epoch in range(epochs + 1):
        samples = epoch_samples(data, plan, epoch)
        assert len(samples) == total == plan.samples(data)
        assert (data.image_of_caption[samples.captions] == samples.images).all()
        drawn = np.bincount(data.datasets[samples.images], minlength=len(sizes))
        assert drawn.tolist() == apportion(total, weights)
        units = samples.images if captions == "sampled" else samples.captions
        own = Counter(units.tolist())
        for number, size in enumerate(sizes):
            units_there = size if captions == "sampled" else 3 * size
            fewest = int(drawn[number]) // units_there
            of_images = data.datasets if captions == "sampled" else np.repeat(data.datasets, 3)
            for unit in np.flatnonzero(of_images == number).tolist():
                assert own[unit] in (fewest, fewest + 1)
        seen += own
    for number in range(len(sizes)):
        of_units = data.datasets if captions == "sampled" else np.repeat(data.datasets, 3)
        counts = [seen[unit] for unit in np.flatnonzero(of_units == number).tolist()]
        assert max(counts) - min(counts) <= 1


def test_a_repeated_image_shows_its_captions_in_turn() -> None:
    data = images_of([4, 12], captions=3)
    plan = BatchPlan(8, 0, 24, dataset_weights=(1.0, 1.0))
    samples = epoch_samples(data, plan, 0)
    for image in range(4):
        assert len(set(samples.captions[samples.images == image])) == 3


def test_a_weight_of_zero_leaves_a_dataset_out() -> None:
    data = images_of([10, 20])
    samples = epoch_samples(data, BatchPlan(4, 0, dataset_weights=(0.0, 0.5)), 3)
    assert len(samples) == 30
    assert set(data.datasets[samples.images]) == {1}


@pytest.mark.parametrize("captions", ["sampled", "all"])
def test_subsamples_are_fresh_without_replacement_and_uniform(captions) -> None:
    data, epochs, count = images_of([50], captions=2), 2000, 20
    plan = BatchPlan(10, 7, count, captions)
    assert plan.steps_per_epoch(data) == 2
    units = 50 if captions == "sampled" else 100
    seen = np.zeros(units, int)
    together = 0
    previous: set[int] = set()
    for epoch in range(epochs):
        samples = epoch_samples(data, plan, epoch)
        chosen = (samples.images if captions == "sampled" else samples.captions).tolist()
        assert len(set(chosen)) == count
        seen[chosen] += 1
        together += len(previous & set(chosen))
        previous = set(chosen)
    share = count / units
    # five standard deviations of a binomial count
    assert abs(seen - epochs * share).max() < 5 * (epochs * share * (1 - share)) ** 0.5
    # one epoch's choice says nothing of the next one's
    assert together / (epochs - 1) == pytest.approx(count * share, rel=0.03)


def test_a_subsample_of_more_than_there_are_is_all() -> None:
    data = images_of([30])
    few, all_ = BatchPlan(8, 1, 1000), BatchPlan(8, 1)
    assert few.steps_per_epoch(data) == all_.steps_per_epoch(data) == 4
    assert epoch_samples(data, few, 2).images.tolist() == list(range(30))


def test_samples_follow_from_seed_and_epoch_alone() -> None:
    data = images_of([40, 60])
    for options in ({"samples_per_epoch": 30}, {"dataset_weights": (1.0, 1.0)}):

        def drawn(seed: int, epoch: int, options=options) -> list[int]:
            return epoch_samples(data, BatchPlan(5, seed, **options), epoch).images.tolist()

        assert drawn(1, 2) == drawn(1, 2)
        assert drawn(1, 2) != drawn(1, 3)
        assert drawn(1, 2) != drawn(2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_epoch": 63}, "--samples-per-epoch 63 is less than one batch"),
        ({"captions": "some"}, "--captions some: give sampled or all"),
        ({"dataset_weights": (1.0, -1.0)}, "--dataset-weights 1,-1: each must be 0 or more"),
        ({"dataset_weights": (0.0, 0.0)}, "one of them above 0"),
        ({"dataset_weights": (float("nan"),)}, "--dataset-weights nan"),
        ({"hard_negatives": 1}, "--hard-negatives 1 is no size"),
        ({"hard_negatives": 65}, "give 2 to --batch-size, 64, or 0"),
    ],
)
def test_wrong_values_are_refused(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        BatchPlan(64, 0, **options).check()


def test_weights_must_be_those_of_the_datasets() -> None:
    data = images_of([10, 20, 0])
    BatchPlan(4, 0).check_fits(data, 3)
    BatchPlan(4, 0, dataset_weights=(1.0, 1.0, 0.0)).check_fits(data, 3)
    with pytest.raises(UsageError, match="has 2 weights, but there are 3 manifests"):
        BatchPlan(4, 0, dataset_weights=(1.0, 1.0)).check_fits(data, 3)
    with pytest.raises(UsageError, match="manifest 3 the weight 2, but its split train"):
        BatchPlan(4, 0, dataset_weights=(1.0, 1.0, 2.0)).check_fits(data, 3)
