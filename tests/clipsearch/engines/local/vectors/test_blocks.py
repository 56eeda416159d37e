"""Files of vectors that grow while they are read."""

from pathlib import Path

import numpy as np
from earlier_codes import in_columns

from clipsearch.engines.local.vectors.blocks import (
    MOST_PIECES,
    Block,
    VectorFiles,
    codes_path,
    earlier_codes,
    write_codes,
    write_vectors,
)
from clipsearch.engines.local.vectors.codes import Question, encode

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


def test_earlier_codes_are_let_go_once_there_are_todays(tmp_path: Path) -> None:
    """An open reader finds what a feed of this version brings."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((400, DIMENSION)).astype(np.float32)
    centre = np.zeros(DIMENSION, np.float32)
    block = Block(0, 1, 2, 300)
    write_vectors(tmp_path, block, np.arange(300), vectors[:300])
    earlier = tmp_path / "codes-000002.bits"
    earlier.write_bytes(in_columns(encode(vectors[:300], centre)))
    assert earlier_codes(tmp_path, block, DIMENSION) == earlier
    files = VectorFiles(tmp_path, DIMENSION)
    assert distance(files, block, vectors[7], 7) == 0
    grown = Block(0, 1, 2, 400)
    write_vectors(tmp_path, grown, np.arange(300, 400), vectors[300:])
    write_codes(tmp_path, grown, np.arange(400), vectors, centre)
    assert codes_path(tmp_path, 2).is_file() and earlier.is_file()
    assert earlier_codes(tmp_path, grown, DIMENSION) is None
    for place in (7, 299, 300, 399):
        assert distance(files, grown, vectors[place], place) == 0


def distance(files: VectorFiles, block: Block, vector: np.ndarray, place: int) -> int:
    """Of a vector's own code from it."""
    (held,) = files.held([block], np.zeros(DIMENSION, np.float32)).blocks
    found = np.empty(block.used, np.uint16)
    held.codes.distances(Question.of(vector), found)
    return int(found[place])
