from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.edge_coloring import spread_apart


def most_together(batch_of: np.ndarray, keys: np.ndarray) -> dict[int, int]:
    """How often each key is in the batch that has it most often."""
    most: dict[int, int] = {}
    for (_, key), count in Counter(zip(batch_of.tolist(), keys.tolist(), strict=True)).items():
        most[key] = max(most.get(key, 0), count)
    return most


def check_spread(before, captions, images, batches, seed=0) -> np.ndarray:
    after = spread_apart(before, captions, images, batches=batches, rng=np.random.default_rng(seed))
    sizes = np.bincount(before, minlength=batches).tolist()
    assert np.bincount(after, minlength=batches).tolist() == sizes
    for keys in (captions, images):
        totals = Counter(keys.tolist())
        for key, count in most_together(after, keys).items():
            assert count <= -(-totals[key] // batches)
    return after


@settings(deadline=None, max_examples=500)
@given(
    st.integers(1, 90),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 1000),
)
def test_nothing_meets_that_need_not(count, batches, captions, images, crowded, seed) -> None:
    rng = np.random.default_rng(seed)
    keys = [rng.integers(0, kinds, count) for kinds in (captions, images)]
    batch_of = np.arange(count) % batches
    # all in order puts equal ones together, the hardest case
    batch_of = np.sort(batch_of) if crowded else rng.permutation(batch_of)
    check_spread(batch_of, *keys, batches, seed)


def test_the_one_way_to_spread_is_found() -> None:
    # A Latin square: every caption with every image once, and each batch must have them all.
    size = 12
    captions, images = np.divmod(np.arange(size * size), size)
    after = check_spread(np.arange(size * size) // size, captions, images, size)
    for keys in (captions, images):
        assert all(len(set(keys[after == batch])) == size for batch in range(size))


def test_what_does_not_clash_is_not_moved() -> None:
    batch_of = np.random.default_rng(0).permutation(np.arange(1000) % 20)
    keys = np.arange(1000)
    assert spread_apart(batch_of, keys, keys, batches=20, rng=np.random.default_rng(1)) is batch_of
    captions = keys.copy()
    first, second = np.flatnonzero(batch_of == 3)[:2]
    captions[first] = captions[second]
    after = check_spread(batch_of, captions, keys, 20)
    assert 1 <= (after != batch_of).sum() <= 2


def test_thousands_of_clashes_are_mended_the_same_way_each_time() -> None:
    rng = np.random.default_rng(0)
    captions, images = rng.integers(0, 2_000, 20_000), np.arange(20_000) // 5
    batch_of = rng.permutation(np.arange(20_000) % 40)
    after = check_spread(batch_of, captions, images, 40)
    again = check_spread(batch_of, captions, images, 40)
    assert (after == again).all()
