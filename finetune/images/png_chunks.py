"""The chunks of a PNG (https://www.w3.org/TR/png-3/): what we need of them, and no more.

Pillow refuses a whole image for a profile or a text that is large or has a wrong checksum, of
which we use nothing. Such chunks are taken out before it sees the file.
"""

import struct
import zlib
from collections.abc import Iterator

MAGIC = b"\x89PNG\r\n\x1a\n"

# Nothing of these is used: colours are taken as they are, without profiles, as transformers does.
_NEEDLESS = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt"))
# Texts in which programs keep EXIF or XMP, and with it the orientation.
_ORIENTATION_TEXTS = (
    b"XML:com.adobe.xmp\0",
    b"Raw profile type exif\0",
    b"Raw profile type APP1\0",
)
# Of these a wrong checksum would be a wrong image.
_NEEDED = frozenset((b"tRNS", b"acTL", b"fcTL", b"fdAT"))
# What Pillow reads of a text (PngImagePlugin.MAX_TEXT_CHUNK).
_MAX_TEXT_BYTES = 1 << 20


def without_needless_chunks(data: bytes) -> bytes:
    """Return the file without texts, profiles and damaged chunks that no pixel depends on.

    A file whose chunks do not follow each other as they should is given back from there on as it
    is, for the decoder to judge.
    """
    kept: list[bytes | memoryview] = []
    view = memoryview(data)
    start = 0
    for kind, first, end in _chunks(data):
        if _is_needed(kind, view[first + 8 : end - 4], view[end - 4 : end]):
            continue
        kept.append(view[start:first])
        start = end
    return data if start == 0 else b"".join((*kept, view[start:]))


def significant_bits(data: bytes) -> tuple[int, ...] | None:
    """Return how many bits of each channel mean something, as the chunk sBIT says.

    None where it does not.
    """
    for kind, first, end in _chunks(data):
        if kind == b"IDAT":
            break
        if kind == b"sBIT" and end - first <= 16:
            return tuple(data[first + 8 : end - 4])
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first byte and end of each whole chunk."""
    place = len(MAGIC)
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 12 + size
        if end > len(data):
            return
        yield data[place + 4 : place + 8], place, end
        place = end


def _is_needed(kind: bytes, content: memoryview, checksum: memoryview) -> bool:
    if not kind[:1].islower() or kind in _NEEDED:
        return True
    if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
        return False
    if kind not in _NEEDLESS:
        return True
    if not bytes(content[:32]).startswith(_ORIENTATION_TEXTS):
        return False
    return len(content) <= _MAX_TEXT_BYTES and _unpacked_size(kind, bytes(content)) is not None


def _unpacked_size(kind: bytes, content: bytes) -> int | None:
    """Return a text's size, in bytes; None above the limit, or where it cannot be unpacked."""
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if len(rest) < 2:
            return None
        compressed, rest = rest[0] == 1, rest[2:].split(b"\0", 2)[-1]
    else:
        compressed, rest = kind == b"zTXt", rest[1:] if kind == b"zTXt" else rest
    if not compressed:
        return len(rest)
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(rest, _MAX_TEXT_BYTES))
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else size
