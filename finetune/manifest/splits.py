"""Which records train, validate and test: as given, or by a seeded hash of the id."""

import hashlib
import math

from finetune.errors import UsageError

SPLITS = ("train", "val", "test")
DEFAULT_SHARES = (0.8, 0.1, 0.1)

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
        digest = hashlib.blake2b(id.encode(), digest_size=8, key=self._key).digest()
        # 53 bits: more would round up to 1.
        point = (int.from_bytes(digest, "big") >> 11) / (1 << 53)
        if point < self._train_below:
            return "train"
        return "val" if point < self._val_below else self._last
