"""The chunked metrics against a full-matrix twin that sorts, and against hand-worked cases."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from captions_of_images import image_to_text
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_figures import naive

from finetune.errors import ClipsearchError
from finetune.evaluation.metrics import best_ranks, in_batches, positive_ranks, text_to_image
from finetune.figures import Measurement

KS = (1, 2, 5, 10)


def assert_equal(found: Measurement, expected: dict) -> None:
    figures = found.as_flat_dict()
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def pools(vectors):
    """Texts, pictures (some without captions) and whose each text is."""

    @st.composite
    def build(draw):
        images = draw(st.integers(1, 9))
        texts = draw(st.integers(1, 14))
        seed = draw(st.integers(0, 2**32 - 1))
        random = np.random.default_rng(seed)
        owners = random.integers(0, images, size=texts)
        chunk = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        return vectors(random, texts), vectors(random, images), owners, chunk

    return build()


def small_integers(random, count):
    # Few values in few dimensions: most scores are equal to others, and exact in float32.
    return random.integers(-1, 2, size=(count, 2)).astype(np.float32)


def unit_vectors(random, count):
    values = random.normal(size=(count, 8))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("vectors", [small_integers, unit_vectors])
def test_both_directions_equal_the_naive_twin(vectors) -> None:
    @settings(max_examples=150, deadline=None)
    @given(pools(vectors))
    def check(pool) -> None:
        texts, images, owners, chunk = pool
        of_text = [{int(owner)} for owner in owners]
        of_image = [set(np.flatnonzero(owners == row).tolist()) for row in range(len(images))]
        found = text_to_image(texts, images, owners, KS, chunk=chunk)
        assert_equal(found, naive(texts, images, of_text, KS))
        found = image_to_text(texts, images, owners, KS, chunk=chunk)
        assert_equal(found, naive(images, texts, of_image, KS))

    check()


def test_a_constant_encoder_ranks_last() -> None:
    texts, images = np.ones((40, 16), np.float32) / 4, np.ones((20, 16), np.float32) / 4
    owners = np.arange(40) % 20
    found = text_to_image(texts, images, owners)
    assert found["mrr@1"] == found["recall@10"] == 0
    assert found["mean_rank"] == found["median_rank"] == 20
    # The two captions of a picture rank after the 38 others.
    assert image_to_text(texts, images, owners)["mean_rank"] == 39


@pytest.mark.parametrize("dimension", [7, 64, 512])
def test_rounding_does_not_break_ties(dimension) -> None:
    vector = np.random.default_rng(0).normal(size=dimension)
    constant = np.tile((vector / np.linalg.norm(vector)).astype(np.float32), (1031, 1))
    assert text_to_image(constant, constant, np.arange(1031))["mean_rank"] == 1031


def test_hand_worked_ranks() -> None:
    queries = np.array([[1.0]], np.float32)
    gallery = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]], np.float32)
    positives = np.array([0, 3]), np.array([1, 4, 2])
    assert best_ranks(queries, gallery, positives).tolist() == [2]
    assert positive_ranks(queries, gallery, positives, 4).tolist() == [[2, 3, 5, 0]]
    assert positive_ranks(queries, gallery, positives, 2).tolist() == [[2, 3]]


def test_a_perfect_encoder_scores_one() -> None:
    images = np.eye(12, dtype=np.float32)
    owners = np.repeat(np.arange(12), 5)
    for found in (
        text_to_image(images[owners], images, owners),
        image_to_text(images[owners], images, owners),
        in_batches(images[owners], images, owners, batch=4),
    ):
        figures = found.as_flat_dict()
        assert all(value == 1 for name, value in figures.items() if "@" in name)
        assert found["mean_rank"] == 1


def test_names_tell_figures_within_batches_apart() -> None:
    images = np.eye(12, dtype=np.float32)
    found = text_to_image(images, images, np.arange(12))
    batches = in_batches(images, images, np.arange(12), batch=4)
    assert (found.scope, found.pool, found.queries) == ("global", 12, 12)
    assert (batches.scope, batches.pool, batches.queries) == ("in batches of 4", 4, 12)
    assert "mrr@10" in found.as_flat_dict()
    assert "mrr@10" not in batches.as_flat_dict()
    assert batches.as_flat_dict()["mrr@10 in batches of 4"] == 1


@pytest.mark.parametrize("direction", ["text-to-image", "image-to-text"])
def test_in_batches_equals_a_written_out_loop(direction) -> None:
    random = np.random.default_rng(3)
    texts, images = unit_vectors(random, 150), unit_vectors(random, 150)
    found = in_batches(texts, images, np.arange(150), batch=64, direction=direction, seed=5)
    assert (found.pool, found.queries) == (64, 128)
    np.random.default_rng(5).permutation(150)  # draws a caption of each, of which there is one
    order = np.random.default_rng(6).permutation(150)[:128].reshape(2, 64)
    ranks = []
    for batch in order:
        scores = texts[batch] @ images[batch].T
        if direction == "image-to-text":
            scores = scores.T
        ranks += [(row >= row[i]).sum() for i, row in enumerate(scores)]
    assert found["mean_rank"] == pytest.approx(np.mean(ranks))
    assert found["mrr@10"] == pytest.approx(np.mean([1 / r if r <= 10 else 0 for r in ranks]))


def test_batches_in_file_order_count_the_short_last_one() -> None:
    """As elsevierlabs-os/clip-image-search evaluates: consecutive pairs, and all of them."""
    random = np.random.default_rng(3)
    texts, images = unit_vectors(random, 150), unit_vectors(random, 150)
    found = in_batches(
        texts, images, np.arange(150), (1, 3, 20), batch=64, direction="image-to-text",
        in_file_order=True,
    )  # fmt: skip
    assert (found.scope, found.pool) == ("in batches of 64 in file order", 64)
    assert found.queries == 150
    ranks = []
    for start in (0, 64, 128):
        scores = images[start : start + 64] @ texts[start : start + 64].T
        ranks += [(row >= row[i]).sum() for i, row in enumerate(scores)]
    assert found["mrr@3"] == pytest.approx(np.mean([1 / r if r <= 3 else 0 for r in ranks]))
    assert found["mrr@20"] == pytest.approx(np.mean([1 / r if r <= 20 else 0 for r in ranks]))


def test_in_file_order_each_picture_comes_with_its_first_caption() -> None:
    images = np.eye(4, dtype=np.float32)
    owners = np.array([0, 0, 1, 2, 3, 3])
    texts = images[[0, 1, 1, 2, 3, 0]]
    found = in_batches(texts, images, owners, (1,), batch=3, in_file_order=True)
    assert (found.queries, found["mrr@1"]) == (4, 1.0)


def test_batches_are_easier_than_the_pool() -> None:
    random = np.random.default_rng(1)
    images = unit_vectors(random, 512)
    texts = images + 0.5 * unit_vectors(random, 512)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    owners = np.arange(512)
    assert (
        in_batches(texts, images, owners)["mrr@10"] > text_to_image(texts, images, owners)["mrr@10"]
    )


def test_one_caption_of_each_picture_in_batches() -> None:
    images = np.eye(10, dtype=np.float32)
    owners = np.repeat(np.arange(10), 3)
    found = in_batches(images[owners], images, owners, batch=64)
    assert (found.pool, found.queries, found["mrr@1"]) == (10, 10, 1.0)


def test_broken_vectors_are_refused_not_ranked_first() -> None:
    images = np.eye(4, dtype=np.float32)
    broken = images.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ClipsearchError, match=r"query embedding in row 2 is not finite \(1 of 4\)"):
        text_to_image(broken, images, np.arange(4))
    with pytest.raises(ClipsearchError, match="gallery embedding in row 2"):
        text_to_image(images, broken, np.arange(4))


def test_no_captions_is_an_error() -> None:
    nothing = np.zeros((0, 4), np.float32)
    with pytest.raises(ClipsearchError, match="no caption"):
        text_to_image(nothing, np.eye(4, dtype=np.float32), np.zeros(0, np.int64))


def test_memory_stays_bounded() -> None:
    random = np.random.default_rng(0)
    embeds = unit_vectors(random, 20_000)
    owners = np.arange(20_000)
    tracemalloc.start()
    text_to_image(embeds, embeds, owners, chunk=(256, 2048))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All scores at once would be 1.6 GB; a block is 2 MB.
    assert peak < 10e6


def test_a_query_with_thousands_of_positives() -> None:
    random = np.random.default_rng(0)
    texts, images = unit_vectors(random, 9000), unit_vectors(random, 3)
    owners = (np.arange(9000) > 10).astype(np.int64)
    of_image = [set(np.flatnonzero(owners == row).tolist()) for row in range(3)]
    assert_equal(image_to_text(texts, images, owners, KS), naive(images, texts, of_image, KS))


def test_imports_without_torch() -> None:
    code = "import finetune.metrics, sys; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
