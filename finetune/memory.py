"""Too little memory, told from a broken file: libraries say either in exceptions of all classes."""

import errno

from finetune.errors import TooLittleMemoryError

# As ONNX Runtime, torch, C++ and the system word it, in lower case.
_SIGNS = (
    "bad_alloc", "failed to allocate memory", "cannot allocate memory", "can't allocate memory",
    "not enough memory", "out of memory", "unable to allocate", "malloc of size",
    "memory allocation", "resource temporarily unavailable",
)  # fmt: skip


def is_too_little(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, or that no thread starts for want of it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)


def raise_too_little(error: BaseException, what: str) -> None:
    """Raise TooLittleMemoryError where `error` says so; call before `what` is said to be broken."""
    if is_too_little(error):
        raise TooLittleMemoryError(
            f"{what}: too little memory; close other programs, or take less at once"
            f" (--batch-size, --workers), and run the same command again"
        ) from error
