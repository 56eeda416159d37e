"""Which records train, validate and test: as given, or by a seeded hash of the id."""

import hashlib
import math
import sqlite3

from finetune.errors import UsageError
from finetune.split_shares import DEFAULT_SHARES

SPLITS = ("train", "val", "test")
# One image alone is ranked first whatever a model does.
FEWEST_HELD_OUT = 2

_SPELLINGS = {
    "train": ("train", "training", "trainval", "restval"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPELLINGS.items() for word in words}


def split_of_word(word: str) -> str | None:
    """Return the split that a word means ("validation", "dev", "restval" …), or None."""
    return _SPLIT_OF_WORD.get(word.strip().lower())


class HashedSplit:
    """Assigns a split by a hash of the id alone, so that adding images moves no other image.

    Args:
        seed: Another seed gives another assignment.
        shares: Of train, val and test; at least 0, summing to 1.

    Raises:
        UsageError: the shares are no shares.
    """

    def __init__(self, seed: int = 0, shares: tuple[float, float, float] = DEFAULT_SHARES) -> None:
        if any(share < 0 for share in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise UsageError(f"split shares {shares} must be at least 0 and sum to 1")
        self._key = str(seed).encode()
        self._train_below = shares[0]
        self._val_below = shares[0] + shares[1]
        self._last = "test" if shares[2] > 0 else "val" if shares[1] > 0 else "train"

    def __call__(self, id: str) -> str:
        """Return the split of an id."""
        point = point_of(id, self._key)
        if point < self._train_below:
            return "train"
        return "val" if point < self._val_below else self._last


def point_of(id: str, key: bytes) -> float:
    """Return the number from 0 to below 1 that an id falls on, by a hash with the key."""
    digest = hashlib.blake2b(id.encode(), digest_size=8, key=key).digest()
    # 53 bits: more would round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def hold_out(database: sqlite3.Connection, share: float, seed: int = 0) -> int:
    """Move a share of the split train's records to val, by a hash of the id; returns how many.

    At least FEWEST_HELD_OUT, and the same ones again as long as no record is added.
    """
    key = f"hold out {seed}".encode()
    database.create_function("point", 1, lambda id: point_of(id, key), deterministic=True)
    ((found,),) = database.execute("SELECT count(*) FROM record WHERE split = 'train'")
    train = int(found)
    count = min(max(round(share * train), FEWEST_HELD_OUT), train)
    database.execute(
        "UPDATE record SET split = 'val' WHERE number IN (SELECT number FROM record"
        " WHERE split = 'train' ORDER BY point(id), number LIMIT ?)",
        (count,),
    )
    return count
