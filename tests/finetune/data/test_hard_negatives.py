from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.batch_plan import BatchPlan
from finetune.data.batches import epoch_batches
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.data.hard_negatives import (
    Groups,
    batches_of_groups,
    group_neighbours,
    nearest_neighbours,
)
from finetune.images.source import ImageSource


def images_with(captions: list[list[str]], contents: list[int] | None = None) -> CaptionedImages:
    data = captioned_images(
        (f"{i}", ImageSource(Path(f"{i}.png")), texts) for i, texts in enumerate(captions)
    )
    return data if contents is None else data.with_image_keys(np.array(contents))


def unit_vectors(count: int, dimension: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def nearest_one_by_one(images, texts, data: CaptionedImages, k: int) -> list[list[int]]:
    """`nearest_neighbours` written out, in float64."""
    captions = [
        set(data.keys[data.starts[i] : data.starts[i + 1]].tolist()) for i in range(len(data))
    ]
    rows = []
    for i in range(len(data)):
        others = [
            j
            for j in range(len(data))
            if j != i and not captions[i] & captions[j] and data.image_keys[i] != data.image_keys[j]
        ]
        similarity = texts.astype(np.float64) @ images[i].astype(np.float64)
        row = sorted(others, key=lambda j: (-similarity[j], j))[:k]
        rows.append(row + [-1] * (k - len(row)))
    return rows


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=3, unique=True),
        min_size=2,
        max_size=40,
    ),
    st.integers(1, 12),
    st.integers(1, 50),
    st.integers(0, 100),
)
def test_neighbours_are_those_found_one_by_one(captions, k, chunk, seed) -> None:
    contents = np.random.default_rng(seed).integers(-5, 30, len(captions)).tolist()
    data = images_with(captions, contents)
    images, texts = (unit_vectors(len(data), 5, 2 * seed + i) for i in (0, 1))
    found = nearest_neighbours(images, texts, data, k, chunk=chunk)
    assert found.dtype == np.int32
    assert found.tolist() == nearest_one_by_one(images, texts, data, k)


def test_a_large_set_is_searched_in_random_parts() -> None:
    data = images_with([[f"caption {i}"] for i in range(1000)])
    images, texts = unit_vectors(1000, 8, 0), unit_vectors(1000, 8, 1)
    found = nearest_neighbours(images, texts, data, 10, chunk=64, pool=300, seed=1)
    assert (found >= 0).all()
    assert (found != np.arange(1000)[:, None]).all()
    similarity = images @ texts.T
    near = np.take_along_axis(similarity, found, axis=1).mean()
    exact = nearest_neighbours(images, texts, data, 10)
    # of four parts each: less near than among all, but nearer than 40 of all
    assert near < np.take_along_axis(similarity, exact, 1).mean()
    wider = nearest_neighbours(images, texts, data, 60)
    assert near > np.take_along_axis(similarity, wider, 1).mean()
    again = nearest_neighbours(images, texts, data, 10, chunk=1000, pool=300, seed=1)
    assert (again == found).all()
    assert (nearest_neighbours(images, texts, data, 10, pool=300, seed=2) != found).any()


def test_embeddings_must_be_those_of_the_images() -> None:
    data = images_with([["a"], ["b"], ["c"]])
    with pytest.raises(ValueError, match="3 images"):
        nearest_neighbours(unit_vectors(3, 4, 0), unit_vectors(2, 4, 0), data, 1)
    with pytest.raises(ValueError, match="3 images, but neighbours of 2"):
        epoch_batches(data, BatchPlan(2, 0, hard_negatives=2), 1, np.zeros((2, 1), np.int32))


def grouped_one_by_one(images, captions, contents, neighbours, size, seed) -> list[list[int]]:
    """`group_neighbours` written out, for images that occur once, one seed after the other."""
    sample_of = {int(image): sample for sample, image in enumerate(images)}
    taken: set[int] = set()
    groups = []
    for start in np.random.default_rng(seed).permutation(len(images)).tolist():
        if start in taken:
            continue
        group = [start]
        taken.add(start)
        for image in neighbours[images[start]].tolist():
            sample = sample_of.get(image)
            if len(group) == size or sample is None or sample in taken:
                continue
            if all(
                captions[sample] != captions[other] and contents[sample] != contents[other]
                for other in group
            ):
                group.append(sample)
                taken.add(sample)
        groups.append(sorted(group))
    return sorted(groups)


def listed(groups: Groups) -> list[list[int]]:
    parts = np.split(groups.order, np.cumsum(groups.lengths)[:-1])
    return sorted(sorted(part.tolist()) for part in parts)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 60), st.integers(0, 1000))
def test_groups_are_those_made_one_by_one(count, size, kinds, seed) -> None:
    rng = np.random.default_rng(seed)
    images = rng.permutation(80)[:count]  # of 80, some are not drawn
    captions, contents = rng.integers(0, kinds, count), rng.integers(-kinds, kinds, count)
    neighbours = rng.integers(-1, 80, (80, 15), np.int32)
    groups = group_neighbours(
        images, captions, contents, neighbours, size=size, rng=np.random.default_rng(seed)
    )
    expected = grouped_one_by_one(images, captions, contents, neighbours, size, seed)
    assert listed(groups) == expected


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(1, 2000), st.integers(0, 1000))
def test_groups_made_many_at_once_keep_the_rules(size, kinds, seed) -> None:
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(700), rng.integers(0, 4, 700))
    captions, contents = rng.integers(0, kinds, len(images)), images // 2
    neighbours = rng.integers(-1, 700, (700, 4 * size), np.int32)
    groups = group_neighbours(
        images, captions, contents, neighbours, size=size, rng=np.random.default_rng(seed)
    )
    assert sorted(groups.order) == list(range(len(images)))
    assert groups.lengths.max() <= size
    for group in listed(groups):
        assert len(set(captions[group])) == len(set(contents[group])) == len(group)
        near = [set(neighbours[images[sample]].tolist()) for sample in group]
        assert any(set(images[group]) - {images[seed_]} <= near[i] for i, seed_ in enumerate(group))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 100)
)
def test_batches_take_whole_groups(lengths, count, seed) -> None:
    samples = sum(lengths)
    sizes = np.full(count, samples // count)
    sizes[: samples % count] += 1
    groups = Groups(np.arange(samples), np.array(lengths))
    batch_of = batches_of_groups(groups, sizes, np.random.default_rng(seed))
    assert np.bincount(batch_of, minlength=count).tolist() == sizes.tolist()
    number = np.repeat(np.arange(len(lengths)), lengths)
    largest = np.flatnonzero(groups.lengths == max(lengths))
    whole = sum(len(set(batch_of[number == group])) == 1 for group in largest)
    assert whole >= min(len(largest), int((sizes // max(lengths)).sum()))


def test_every_batch_gets_as_many_groups_as_the_others() -> None:
    lengths = np.array([8] * 50 + [1] * 240)
    groups = Groups(np.arange(640), lengths)
    batch_of = batches_of_groups(groups, np.full(10, 64), np.random.default_rng(0))
    first = batch_of[:400:8]
    assert np.bincount(first).tolist() == [5] * 10
    assert first.tolist() != sorted(first)


def clustered(count: int, seed: int) -> tuple[CaptionedImages, np.ndarray, np.ndarray]:
    """Images of 60 kinds, each with a caption of its own; a kind's embeddings lie together."""
    rng = np.random.default_rng(seed)
    centres = unit_vectors(60, 32, seed)[rng.integers(0, 60, count)]
    noise = [0.7 * unit_vectors(count, 32, seed + i) for i in (1, 2)]
    images, texts = (
        (centres + each) / np.linalg.norm(centres + each, axis=1, keepdims=True) for each in noise
    )
    return images_with([[f"caption {i}"] for i in range(count)]), images, texts


def in_batch_similarity(batches, images: np.ndarray, texts: np.ndarray) -> float:
    """Of an image to the captions of the other images in its batch, the mean over all."""
    means = []
    for batch in batches:
        similarity = images[batch.images] @ texts[batch.images].T
        off = ~np.eye(len(batch), dtype=bool)
        means.append(similarity[off].mean())
    return float(np.mean(means))


@pytest.mark.parametrize("captions", ["sampled", "all"])
def test_hard_negatives_are_nearer_than_random_ones(captions) -> None:
    data, images, texts = clustered(3000, 0)
    neighbours = nearest_neighbours(images, texts, data, 32)
    plain = BatchPlan(64, 0, captions=captions)
    by_size = [in_batch_similarity(epoch_batches(data, plain, 1), images, texts)]
    for size in (4, 8, 16):
        plan = BatchPlan(64, 0, captions=captions, hard_negatives=size)
        assert plan.neighbours == 4 * size
        batches = epoch_batches(data, plan, 1, neighbours)
        by_size.append(in_batch_similarity(batches, images, texts))
    similarity = images @ texts.T
    kind = np.take_along_axis(similarity, neighbours[:, :15], axis=1).mean()
    assert abs(by_size[0]) < 0.02
    # groups of 16 fill a batch of 64 four times: 15 of 63 others are of the same kind
    assert by_size == sorted(by_size)
    assert by_size[3] > 0.6 * kind * 15 / 63


def test_before_the_first_epoch_there_are_no_neighbours() -> None:
    data = images_with([[f"caption {i}"] for i in range(100)])
    plan = BatchPlan(16, 3, hard_negatives=4)
    plain = epoch_batches(data, BatchPlan(16, 3), 0)
    for batch, twin in zip(epoch_batches(data, plan, 0), plain, strict=True):
        assert batch.images.tolist() == twin.images.tolist()


def test_hard_batches_follow_from_seed_epoch_and_neighbours() -> None:
    data, images, texts = clustered(300, 1)
    neighbours = nearest_neighbours(images, texts, data, 8)

    def order(seed: int, epoch: int) -> list[int]:
        plan = BatchPlan(16, seed, hard_negatives=4)
        batches = epoch_batches(data, plan, epoch, neighbours)
        return [int(image) for batch in batches for image in batch.images]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
