"""Which image formats are read, by which suffixes they go, and what else looks like an image."""

import importlib.util
from functools import cache

# Formats of Pillow that hold pixels. Not among them: EPS (Pillow would run Ghostscript on the
# file), WMF and EMF (drawings, on Windows alone), BUFR, GRIB, HDF5 and MPEG (Pillow only knows
# their headers), IPTC and PDF (other images' envelopes), IM (leaves
# Pillow with version 15), FITS (Pillow reads its signed samples as unsigned ones).
FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO",
    "ICNS", "TGA", "PCX", "SGI", "QOI", "DDS", "PSD", "SUN", "PIXAR", "XBM", "XPM", "MSP",
    "CUR", "DCX", "PCD", "FLI", "BLP", "FTEX", "GBR",
)  # fmt: skip

HEIC_SUFFIXES = (".heic", ".heif", ".hif", ".heics", ".heifs")

# The most frequent ones first, since some manifests name images without their suffix.
_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm",
    ".jfif", ".jpe", ".mpo", ".tga", ".pgm", ".pbm", ".pnm", ".pfm", ".apng", ".dib", ".avifs",
    ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".ico", ".icns", ".icb", ".vda", ".vst", ".pcx",
    ".bw", ".rgb", ".rgba", ".sgi", ".qoi", ".dds", ".psd", ".ras", ".pxr",
    ".xbm", ".xpm", ".msp", ".cur", ".dcx", ".pcd", ".fli", ".flc", ".blp", ".ftc", ".ftu",
    ".gbr",
)  # fmt: skip

_NO_PIXELS = "is a drawing without pixels; convert it to PNG"
_RAW = "is a camera's raw picture; develop it to JPEG or TIFF"
_UNKNOWN = "is of a picture format that is not read; convert it to PNG or JPEG"
_HEIC = "is a HEIC picture; install the extra heic, or convert it to JPEG"

# Suffixes of images that are not read, and why.
_NOT_READ = {
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr"), _NO_PIXELS),
    **dict.fromkeys(
        (
            ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf",
            ".orf", ".rw2", ".pef", ".srw", ".raw", ".3fr", ".iiq", ".x3f", ".kdc", ".dcr",
        ),
        _RAW,
    ),
    **dict.fromkeys(
        (".jxl", ".jxr", ".wdp", ".hdp", ".exr", ".hdr", ".psb", ".xcf", ".kra", ".djvu", ".djv",
         ".dcm", ".fit", ".fits", ".bpg", ".flif", ".pct", ".pict", ".palm", ".iim", ".jng",
         ".mng"),
        _UNKNOWN,
    ),
}  # fmt: skip

_MAGIC = (
    (b"\xff\xd8\xff", 0, ".jpg"),
    (b"\x89PNG\r\n\x1a\n", 0, ".png"),
    (b"GIF87a", 0, ".gif"),
    (b"GIF89a", 0, ".gif"),
    (b"WEBP", 8, ".webp"),
    (b"II*\x00", 0, ".tif"),
    (b"MM\x00*", 0, ".tif"),
    (b"II+\x00", 0, ".tif"),
    (b"MM\x00+", 0, ".tif"),
    (b"ftypavif", 4, ".avif"),
    (b"ftypavis", 4, ".avif"),
    (b"\x00\x00\x00\x0cjP  ", 0, ".jp2"),
    (b"\xff\x4f\xff\x51", 0, ".j2k"),
    (b"8BPS\x00\x01", 0, ".psd"),
    (b"qoif", 0, ".qoi"),
    (b"icns", 0, ".icns"),
    (b"DDS |", 0, ".dds"),
    (b"SIMPLE  =", 0, ".fits"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
HEAD_BYTES = 4096


@cache
def reads_heic() -> bool:
    """Return whether pillow-heif is installed (the extra `heic`)."""
    return importlib.util.find_spec("pillow_heif") is not None


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that can be read, in lower case, with their dot."""
    return (*_SUFFIXES, *HEIC_SUFFIXES) if reads_heic() else _SUFFIXES


def why_not_read(suffix: str) -> str | None:
    """Return why files of a suffix (in lower case) are no images that we read, though they look it.

    None for suffixes that are read, and for those of other files.
    """
    if suffix in HEIC_SUFFIXES and not reads_heic():
        return _HEIC
    return _NOT_READ.get(suffix)


def is_never_read(suffix: str) -> bool:
    """Return whether a suffix (in lower case) is of images that no installation reads."""
    return suffix in _NOT_READ


def suffix_of_content(head: bytes) -> str | None:
    """Return the suffix that an image's first bytes deserve; None where they are no image's.

    Formats without clear first bytes (TGA, PCX …) are not recognised.
    """
    for magic, place, suffix in _MAGIC:
        if head.startswith(magic, place):
            return suffix
    if is_heic(head):
        return ".heic"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return ".bmp"
    return ".svg" if is_svg(head) else None


def is_heic(head: bytes) -> bool:
    """Return whether these are the first bytes of a HEIC image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def is_svg(head: bytes) -> bool:
    """Return whether these are the first bytes of an SVG drawing."""
    start = head[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_xml = start.startswith((b"<?xml", b"<!doctype svg", b"<!--"))
    return start.startswith(b"<svg") or (is_xml and b"<svg" in start)


def what_else(data: bytes) -> str:
    """Return what a file is that no image format recognises, and the mend."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if is_svg(data[:HEAD_BYTES]):
        return "is an SVG drawing, which has no pixels; convert it to PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a picture; download the picture itself"
    if is_heic(data[:12]):
        return "is a damaged HEIC picture (its header cannot be read)" if reads_heic() else _HEIC
    if start.startswith((b"%pdf", b"%!ps")):
        return "is a PDF or PostScript page; convert it to PNG"
    if start.startswith((b"ii*", b"mm\x00*")):
        return "is damaged or truncated, or a TIFF of a kind that Pillow does not read"
    if start.startswith((b"\xff\xd8", b"\x89png", b"gif8", b"riff", b"bm")):
        return "is damaged or truncated (its header cannot be read)"
    if b"\x00" not in data[:1024]:
        return "holds text, not a picture"
    return "is no picture of a known format (JPEG, PNG, GIF, WebP, TIFF, BMP, AVIF, ...)"


def formats_for(data: bytes) -> tuple[str, ...]:
    """Return Pillow's names of the formats to try for these bytes.

    Makes Pillow read HEIC where it can.
    """
    if not (is_heic(data[:12]) and reads_heic()):
        return FORMATS
    _register_heic()
    return ("HEIF",)


@cache
def _register_heic() -> None:
    import pillow_heif  # a tenth of a second, for images that few have

    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
