"""The formats of a manifest, a file each, and how they are told apart: by content.

Neither a flag nor a suffix says what a file is. A name decides only where the content cannot:
`metadata.csv` in a folder (imagefolder) and `*.tar` in a folder (webdataset) say that the folder
itself is the manifest.
"""

from pathlib import Path

from finetune.errors import ManifestError
from finetune.files.regular_files import NotRegularError, open_regular, what_it_is
from finetune.frames import FrameManifest
from finetune.images.formats import suffix_of_content
from finetune.manifest.formats import (
    data_frame,
    delimited,
    flickr8k,
    folder,
    imageclef,
    imagefolder,
    json_lines,
    karpathy,
    parquet,
    webdataset,
)
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.datasets import coco, roco
from finetune.manifest.formats.indexes import clip_retrieval, rclip
from finetune.manifest.formats.row import ManifestSource
from finetune.manifest.formats.text_lines import UTF8_BOM, first_lines
from finetune.manifest.inputs import PATTERN_SIGNS, nothing_there

HEAD_BYTES = 1 << 20

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def recognise(
    path: str | Path | FrameManifest,
    has_vectors: bool = False,
    columns: ColumnNames | None = None,
) -> ManifestSource:
    """Find out what a manifest is: a file, a folder, a pattern of tar shards, or a DataFrame.

    `has_vectors` says that ready-made vectors lie beside it, `columns` what the user says of a
    table's columns.

    Raises:
        ManifestError: it is missing, empty, of no known format, or a column is missing.
    """
    if isinstance(path, FrameManifest):
        return data_frame.recognise(path, columns)
    text = str(path)
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _recognise_folder(path.absolute(), columns)
        if path.is_file():
            with open_regular(path) as file:
                head = file.read(HEAD_BYTES)
            return _recognise_file(path.absolute(), head, has_vectors, columns)
        if path.exists():
            reason = what_it_is(path.stat()) or "is neither a file nor a folder"
            raise ManifestError(f"{path}: {reason}; name a manifest or a folder of pictures")
    except NotRegularError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
    if any(sign in text for sign in PATTERN_SIGNS):
        return webdataset.recognise_pattern(text)
    raise ManifestError(nothing_there(path))


def _recognise_file(
    path: Path, head: bytes, has_vectors: bool, columns: ColumnNames | None
) -> ManifestSource:
    if not head:
        raise ManifestError(f"{path}: the file is empty")
    if head.startswith(parquet.MAGIC):
        return parquet.recognise(path, has_vectors, columns)
    if head[webdataset.MAGIC_OFFSET :].startswith(webdataset.MAGIC):
        return webdataset.recognise(path)
    if head.startswith(rclip.MAGIC):
        return rclip.recognise(path)
    _refuse_other_files(path, head)
    if b"\r" in head.strip() and b"\n" not in head:
        raise ManifestError(f"{path}: has the line ends of old Macs (CR); save it with LF or CRLF")
    start = head.removeprefix(UTF8_BOM).lstrip()
    if start.startswith(b"{"):
        return _recognise_json(path, head, has_vectors, columns)
    if start.startswith(b"["):
        raise ManifestError(f"{path}: is one JSON list; write JSON Lines, an object on each line")
    source = (
        delimited.recognise(path, head, has_vectors, columns)
        or flickr8k.recognise(path, head)
        or roco.recognise(path, head)
        or imageclef.recognise(path, head)
    )
    if source is None:
        first = next(iter(first_lines(head, 1)), "")[:80]
        raise ManifestError(
            f"{path}: of no known format; its first line is {first!r}, which should name the "
            'columns, "image" and "caption" among them'
        )
    return source


def _recognise_json(
    path: Path, head: bytes, has_vectors: bool, columns: ColumnNames | None
) -> ManifestSource:
    source: ManifestSource | None = json_lines.recognise(path, head, has_vectors, columns)
    source = source or karpathy.recognise(path) or coco.recognise(path)
    if source is None:
        raise ManifestError(
            f"{path}: JSON of no known form; write JSON Lines, an object on each line, or one of"
            f" the forms that clipsearch manifest --help shows"
        )
    return source


def _refuse_other_files(path: Path, head: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ManifestError(f"{path}: is compressed ({name}); unpack it first")
    if suffix_of_content(head) is not None:
        raise ManifestError(f"{path}: is a picture; name the manifest or the folder of pictures")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f"{path}: is UTF-16; save it as UTF-8")
    # One may stand in a damaged text; in UTF-16 every second byte or so is one.
    if head[:4096].count(0) > len(head[:4096]) // 10:
        raise ManifestError(f"{path}: holds no text (or UTF-16 text); save it as UTF-8")


def _recognise_folder(path: Path, columns: ColumnNames | None) -> ManifestSource:
    source: ManifestSource | None = clip_retrieval.recognise_folder(path)
    source = source or imagefolder.recognise(path, columns)
    source = source or webdataset.recognise_folder(path) or roco.recognise_folder(path)
    if source is not None:
        return source
    tables = [each for each in sorted(path.iterdir()) if each.suffix.lower() in _TABLES]
    manifests = [each for each in tables if _is_manifest(each)]
    if manifests:
        # Read as a folder of images it would lose the captions in silence.
        raise ManifestError(f"{path}: is a folder; name the manifest in it: {manifests[0]}")
    source = folder.recognise(path)
    if source is None:
        passed_over = folder.first_not_taken(path)
        but = "" if passed_over is None else f", but {passed_over.path}: {passed_over.reason}"
        raise ManifestError(f"{path}: the folder holds no images, no shards and no manifest{but}")
    return source


def _is_manifest(path: Path) -> bool:
    """Return whether a table beside pictures says something of them: captions, or vectors."""
    try:
        if not path.is_file() or path.name.startswith("."):
            return False
        source = recognise(path, columns=ColumnNames(guesses=False))
    except ManifestError:
        return False
    columns = getattr(source, "columns", None)
    return not isinstance(columns, ManifestColumns) or bool(columns.captions or columns.embedding)
