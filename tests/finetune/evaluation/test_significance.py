"""Intervals and p values against written-out twins, known cases, and their long-run promises."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from finetune.evaluation import significance
from finetune.evaluation.significance import (
    bootstrap_means,
    bootstrap_medians,
    percentile_intervals,
    sign_flip_p_values,
)


@pytest.fixture
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """37 queries of 11 clusters with odd names, two columns."""
    random = np.random.default_rng(0)
    clusters = random.permutation(
        np.repeat(np.arange(11) * 7 + 3, [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 2])
    )
    return random.normal(size=(37, 2)).round(1), clusters


def naive_samples(values, clusters, statistic, resamples, seed):
    """Draw clusters one resample at a time and lay their queries side by side."""
    names = np.unique(clusters)
    draws = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
    samples = []
    for drawn in draws:
        rows = [row for name in names[drawn] for row in np.flatnonzero(clusters == name)]
        samples.append(statistic(values[rows], axis=0))
    return np.array(samples)


@pytest.mark.parametrize("block", [significance.BLOCK, 100])
@pytest.mark.parametrize(
    ("function", "statistic"), [(bootstrap_means, np.mean), (bootstrap_medians, np.median)]
)
def test_clusters_are_drawn_whole_as_the_naive_twin_does(
    clustered, function, statistic, block, monkeypatch
) -> None:
    monkeypatch.setattr(significance, "BLOCK", block)
    values, clusters = clustered
    found = function(values, clusters, resamples=50, seed=4)
    assert found.shape == (50, 2)
    np.testing.assert_allclose(found, naive_samples(values, clusters, statistic, 50, 4))


def test_without_clusters_each_query_is_drawn_alone(clustered) -> None:
    values, _ = clustered
    for function in (bootstrap_means, bootstrap_medians):
        alone = function(values, resamples=20, seed=1)
        np.testing.assert_array_equal(alone, function(values, np.arange(37), resamples=20, seed=1))
        assert not np.array_equal(alone, function(values, resamples=20, seed=2))


def test_the_bootstrap_finds_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    samples = bootstrap_means(values, resamples=4000)
    assert samples.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = percentile_intervals(samples)[0]
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * values.std() / 20, values.mean() + 1.96 * values.std() / 20),
        abs=0.02,
    )


def test_five_copies_of_a_query_tell_no_more_than_one() -> None:
    values = np.random.default_rng(0).normal(size=(100, 1))
    copies, clusters = np.repeat(values, 5, axis=0), np.repeat(np.arange(100), 5)
    once = bootstrap_means(values, resamples=500)
    np.testing.assert_allclose(bootstrap_means(copies, clusters, resamples=500), once)
    taken_for_independent = bootstrap_means(copies, resamples=500)
    assert taken_for_independent.std() == pytest.approx(once.std() / np.sqrt(5), rel=0.15)
    medians = bootstrap_medians(copies, clusters, resamples=500)
    np.testing.assert_allclose(medians, bootstrap_medians(values, resamples=500))


def test_a_constant_has_an_interval_of_no_width() -> None:
    ones = np.ones((20, 1))
    assert percentile_intervals(bootstrap_means(ones)).tolist() == [[1.0, 1.0]]
    assert percentile_intervals(bootstrap_medians(ones)).tolist() == [[1.0, 1.0]]
    assert bootstrap_medians(np.array([[4.0]])).tolist() == [[4.0]] * significance.RESAMPLES


def test_percentiles_leave_as_much_at_either_end() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))[:, np.newaxis]
    np.testing.assert_allclose(percentile_intervals(samples), [[25, 975]])
    np.testing.assert_allclose(percentile_intervals(samples, 0.8), [[100, 900]])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    values = random.exponential(size=(80, 300))
    ends = percentile_intervals(bootstrap_means(values, resamples=500))
    held = np.mean((ends[:, 0] <= 1) & (ends[:, 1] >= 1))
    # 0.95 less what a percentile interval of a skewed mean of 80 loses, and 300 tries' chance.
    assert 0.90 <= held <= 0.98


def naive_p_value(differences, clusters):
    """Every sign pattern, written out."""
    names = np.unique(clusters)
    sums = [differences[clusters == name].sum() for name in names]
    found = abs(sum(sums))
    patterns = list(itertools.product((1, -1), repeat=len(sums)))
    as_far = sum(
        abs(sum(sign * value for sign, value in zip(signs, sums, strict=True))) >= found - 1e-12
        for signs in patterns
    )
    return as_far / len(patterns)


def test_known_p_values() -> None:
    # All of five in one direction: 2 of the 32 patterns are as far from zero.
    assert sign_flip_p_values(np.ones((5, 1))).tolist() == [2 / 32]
    assert sign_flip_p_values(-np.ones((5, 1))).tolist() == [2 / 32]
    # One up, one down, and four that did not change.
    assert sign_flip_p_values(np.array([[1.0], [-1], [0], [0], [0], [0]])).tolist() == [1.0]
    assert sign_flip_p_values(np.zeros((50, 2))).tolist() == [1.0, 1.0]
    # 1 + 2 + 3 - 4: sums of at least 2 either way are 14 of 16.
    assert sign_flip_p_values(np.array([[1.0], [2], [3], [-4]])).tolist() == [14 / 16]


def test_few_clusters_are_enumerated_as_the_naive_twin_does(clustered) -> None:
    differences, clusters = clustered
    found = sign_flip_p_values(differences, clusters, permutations=2048)
    expected = [naive_p_value(column, clusters) for column in differences.T]
    np.testing.assert_allclose(found, expected)


def test_random_patterns_come_near_to_all_of_them() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, size=(14, 3))
    exact = sign_flip_p_values(differences, permutations=2**14)
    drawn = sign_flip_p_values(differences, permutations=2**14 - 1)
    np.testing.assert_allclose(drawn, exact, atol=0.015)
    assert not np.array_equal(drawn, exact)


def test_a_p_value_is_never_zero() -> None:
    assert sign_flip_p_values(np.ones((200, 1)), permutations=999).tolist() == [1 / 1000]


def test_which_encoder_comes_first_does_not_matter() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1, size=(60, 2))
    np.testing.assert_array_equal(sign_flip_p_values(differences), sign_flip_p_values(-differences))


def test_equal_encoders_are_told_apart_as_often_as_p_says() -> None:
    random = np.random.default_rng(0)
    # Captions of an image go up or down together; taken for independent they would mislead.
    of_image = random.normal(size=(40, 400))
    differences = np.repeat(of_image, 5, axis=0) + 0.1 * random.normal(size=(200, 400))
    clusters = np.repeat(np.arange(40), 5)
    honest = sign_flip_p_values(differences, clusters, permutations=500)
    assert 0.02 <= np.mean(honest <= 0.05) <= 0.09
    assert np.mean(sign_flip_p_values(differences, permutations=500) <= 0.05) > 0.25


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no query"):
        bootstrap_means(np.zeros((0, 1)))
    with pytest.raises(ValueError, match="2 queries, but 3 clusters"):
        bootstrap_medians(np.zeros((2, 1)), np.arange(3))
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_means(np.zeros((2, 1)), resamples=0)
    with pytest.raises(ValueError, match="confidence=95"):
        percentile_intervals(np.zeros((10, 1)), 95)


def test_imports_without_torch() -> None:
    code = (
        "from finetune.evaluation import intervals, pool, significance, zero_shot;"
        " import sys, finetune.manifest.class_labels;"
        " assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
