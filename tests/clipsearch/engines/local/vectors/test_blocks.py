"""Files of vectors that grow while they are read."""

from pathlib import Path

import numpy as np

from clipsearch.engines.local.vectors.blocks import (
    MOST_PIECES,
    Block,
    VectorFiles,
    write_codes,
    write_vectors,
)

DIMENSION = 24


def test_of_a_file_that_grows_only_what_came_is_mapped(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((500, DIMENSION)).astype(np.float32)
    query, centre = vectors[7], np.zeros(DIMENSION, np.float32)
    files = VectorFiles(tmp_path, DIMENSION)
    mapped = []
    written = 0
    for used in (400, *range(401, 401 + MOST_PIECES), 500):
        block = Block(0, 1, 2, used)
        places = np.arange(written, used)
        write_vectors(tmp_path, block, places, vectors[written:used])
        write_codes(tmp_path, block, places, vectors[written:used], centre)
        written = used
        store = files.held([block], centre)
        (held,) = store.blocks
        mapped.append(held.pieces)
        assert store.size == held.count == used
        slots = np.array([used - 1, 3, 399, 0, used - 1])
        assert np.array_equal(store.gathered(slots), vectors[slots])
        assert np.array_equal(store.at(used - 1), vectors[used - 1])
        expected = vectors[:used] @ query
        np.testing.assert_allclose(store.cosines(query, slots), expected[slots], 1e-5)
        products = np.empty(used, np.float32)
        store.products(query, products)
        np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-5)
    assert [len(pieces) for pieces in mapped] == [*range(1, MOST_PIECES + 1), 1, 2]
    for pieces in mapped[1:MOST_PIECES]:
        assert np.shares_memory(mapped[0][0], pieces[0])
    assert not np.shares_memory(mapped[0][0], mapped[-1][0])
