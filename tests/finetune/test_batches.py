from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.batches import epoch_batches, positives, sample_captions, steps_per_epoch, tokenized
from finetune.dataset import CaptionedImages, caption_keys, captioned_images
from finetune.images import ImageSource

some_captions = st.lists(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True),
    min_size=2,
    max_size=60,
)


def images_with(captions: list[list[str]]) -> CaptionedImages:
    return captioned_images(
        (f"{i}.png", ImageSource(Path(f"{i}.png")), texts) for i, texts in enumerate(captions)
    )


@settings(deadline=None)
@given(some_captions, st.integers(2, 20), st.integers(0, 5), st.integers(0, 5))
def test_every_image_once_with_a_caption_of_its_own(captions, size, seed, epoch) -> None:
    data = images_with(captions)
    batches = epoch_batches(data, size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate([batch.images for batch in batches])) == list(range(len(data)))
    for batch in batches:
        assert (data.image_of_caption[batch.captions] == batch.images).all()
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == steps_per_epoch(len(data), size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(some_captions, st.integers(2, 20), st.integers(0, 5))
def test_equal_captions_are_spread_as_far_as_can_be(captions, size, seed) -> None:
    data = images_with(captions)
    batches = epoch_batches(data, size, seed=seed, epoch=0)
    total = Counter(data.keys[np.concatenate([batch.captions for batch in batches])].tolist())
    for batch in batches:
        for key, count in Counter(data.keys[batch.captions].tolist()).items():
            assert count <= -(-total[key] // len(batches))


def test_sixty_four_captions_fill_batches_without_equal_ones() -> None:
    data = images_with([[f"combination {i % 64}"] for i in range(3000)])
    for epoch in range(3):
        for batch in epoch_batches(data, 62, seed=1, epoch=epoch):
            assert len(set(data.keys[batch.captions])) == len(batch)


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    data = images_with([[f"caption {i}"] for i in range(100)])

    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(data, 16, seed=seed, epoch=epoch)
        return [int(i) for batch in batches for i in batch.images]

    assert order(3, 4) == order(3, 4)
    assert order(3, 4) != order(3, 5)
    assert order(3, 4) != order(4, 4)


def test_batches_mix_images_afresh() -> None:
    # Images that meet in one epoch meet in the next one no more often than by chance.
    data = images_with([[f"caption {i}"] for i in range(1000)])
    first = {frozenset(b.images.tolist()) for b in epoch_batches(data, 10, seed=0, epoch=0)}
    shared = [
        len(set(batch.images.tolist()) & other)
        for batch in epoch_batches(data, 10, seed=0, epoch=1)
        for other in first
    ]
    assert max(shared) <= 4


@settings(deadline=None)
@given(some_captions, st.integers(0, 3), st.integers(0, 7))
def test_every_caption_is_seen_once_in_as_many_epochs_as_there_are(captions, seed, start) -> None:
    data = images_with(captions)
    for image, texts in enumerate(captions):
        epochs = range(start, start + len(texts))
        seen = [int(sample_captions(data, seed=seed, epoch=epoch)[image]) for epoch in epochs]
        assert sorted(seen) == list(range(data.starts[image], data.starts[image + 1]))


@settings(deadline=None)
@given(some_captions, st.integers(0, 5))
def test_positives_are_the_images_that_carry_the_caption(captions, seed) -> None:
    data = images_with(captions)
    for batch in epoch_batches(data, 8, seed=seed, epoch=0):
        expected = [
            [data.captions[text] in captions[image] for text in batch.captions]
            for image in batch.images
        ]
        assert positives(data, batch).tolist() == expected
        assert positives(data, batch).diagonal().all()


def test_captions_are_equal_but_for_case_and_white_space() -> None:
    keys = caption_keys(["A  dog\n", "a dog", "a cat", "STRASSE", "straße", "a dog."])
    assert keys.tolist() == [0, 0, 1, 2, 2, 3]


def test_without_leaves_out_whole_images() -> None:
    data = images_with([["a", "b"], ["c"], ["a", "d"]]).without([1])
    assert data.ids == ("0.png", "2.png")
    assert data.captions == ("a", "b", "a", "d")
    assert data.starts.tolist() == [0, 2, 4]
    assert data.keys.tolist() == [0, 1, 0, 2]


def test_padding_fills_to_the_longest_or_to_the_towers_length() -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    ids, mask = tokenized(rows, pad_token_id=9).padded(np.array([2, 1]))
    assert ids.tolist() == [[5, 6], [4, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    ids, mask = tokenized(rows, pad_token_id=9, pad_to=4).padded(np.array([0]))
    assert ids.tolist() == [[1, 2, 3, 9]]
    assert mask.tolist() == [[1, 1, 1, 0]]
