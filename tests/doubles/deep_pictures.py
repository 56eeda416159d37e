"""Files of more than 8 bits a sample, and PNGs of any chunks, written without Pillow's help."""

import struct
import zlib

import numpy as np

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def chunk(kind: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + content)
    sum = struct.pack(">I", right if checksum is None else checksum)
    return struct.pack(">I", len(content)) + kind + content + sum


def png(samples: np.ndarray, colour: int, *before: bytes, after: bytes = b"", bits=16) -> bytes:
    """A PNG of samples[h, w(, c)], with chunks before and after its pixels."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1")
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(raw)), after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(samples: np.ndarray, order: str = "<", *, deflate: bool = False, **tags: object) -> bytes:
    """A TIFF of samples[h, w(, c)], with tags by name in place of the usual ones."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    entries = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [samples.dtype.itemsize * 8] * channels),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [1 if channels == 1 else 2]),
        273: ("I", [8]),
        277: ("H", [channels]),
        278: ("H", [height]),
        279: ("I", [len(pixels)]),
        339: ("H", [kind] * channels),
    }
    numbers = {"bits": 258, "photometric": 262, "smin": 340, "smax": 341, "maximum": 281}
    for name, value in tags.items():
        code = "d" if name.startswith("s") else "H"
        entries[numbers[name]] = (code, [value])
    place = 8 + len(pixels) + len(pixels) % 2
    extra_place = place + 2 + 12 * len(entries) + 4
    directory, extra = struct.pack(order + "H", len(entries)), b""
    for tag, (code, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            packed, extra = (
                struct.pack(order + "I", extra_place + len(extra)),
                extra + packed + b"\0" * (len(packed) % 2),
            )
        types = {"H": 3, "I": 4, "d": 12}
        directory += struct.pack(order + "HHI", tag, types[code], len(values)) + packed.ljust(
            4, b"\0"
        )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    padding = b"\0" * (len(pixels) % 2)
    return start + pixels + padding + directory + b"\0\0\0\0" + extra
