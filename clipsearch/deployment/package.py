"""The application package: `vespa_app/`, with the few values that are known only at deploy.

A value stands in the files as {{name}}. A part that only some packages need stands between two
comments, <!-- {{#name}} --> and <!-- {{/name}} -->. An unknown name is an error.
"""

import hashlib
import importlib.resources
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from importlib.resources.abc import Traversable
from pathlib import Path

from clipsearch.engine import EMBEDDING_PRECISIONS, EmbeddingPrecision, check_weights
from clipsearch.modes import MODES, RANKINGS, RRF_K
from clipsearch.text import LANGUAGES
from finetune.encoder_folder import TEXT_TOWER, TOKENIZER_FILE
from finetune.errors import EncoderError, UsageError
from finetune.files.ownership import FolderKind, chunks, read_mark, update_files

# Query profiles that embed the text inside Vespa.
EMBEDDING_PROFILES = tuple(mode for mode in MODES if RANKINGS[mode].needs_vector)
SERVICES_FILE = "services.xml"
HOSTS_FILE = "hosts.xml"
PARTS = (SERVICES_FILE, "schemas", "search")
OVERRIDES_FILE = "validation-overrides.xml"
TEXT_TOWER_FILE = "models/text.onnx"
MODEL_FILES = (TEXT_TOWER_FILE, "models/tokenizer.json")
APPLICATION_PACKAGE = "application package"
OVERRIDE_DAYS = 7  # Vespa takes at most 30

_VALUE = re.compile(r"\{\{(\w+)\}\}")
_SECTION = re.compile(
    r"[ \t]*<!-- \{\{#(\w+)\}\} -->\n(.*?)[ \t]*<!-- \{\{/\1\}\} -->\n", re.DOTALL
)
_LEFT_OVER = re.compile(r"\{\{.*?\}\}")
_SECTIONS = frozenset({"encoder", "self_hosted", "cloud"})

# A file of the package: its content, or where a large one lies.
PackageFile = bytes | Path
Package = Mapping[str, PackageFile]


@dataclass(frozen=True, slots=True)
class PackageValues:
    """What is filled in.

    Attributes:
        dimension: Values in an embedding.
        precision: Of these values in the index.
        language: Of the captions, a code of `clipsearch.text.LANGUAGES`.
        bm25_weight, vector_weight: Of the hybrids, where a request sends none.
        rrf_k: Of hybrid-rrf.
        encoder: The encoder folder, whose text tower answers embed(@text); None leaves that out.
        max_tokens: Of the encoder; longer texts are cut.
        cloud: For Vespa Cloud, which names its own hosts.
        nodes: Folder with the services.xml and hosts.xml of several machines, in place of ours.
        allowed: Ids of validation overrides: changes that Vespa otherwise refuses.
    """

    dimension: int
    precision: EmbeddingPrecision = "float"
    language: str = "en"
    bm25_weight: float = 0.1
    vector_weight: float = 1.0
    rrf_k: int = RRF_K
    encoder: Path | None = None
    max_tokens: int = 77
    cloud: bool = False
    nodes: Path | None = None
    allowed: tuple[str, ...] = ()


def render(values: PackageValues, today: date | None = None) -> Package:
    """Return the package's files by path, filled in.

    Raises UsageError for a value that cannot be, EncoderError where the text tower is missing.
    """
    _check(values)
    texts = {
        "dimension": str(values.dimension),
        "precision": values.precision,
        "language": values.language,
        "bm25_weight": _decimal(values.bm25_weight),
        "vector_weight": _decimal(values.vector_weight),
        "rrf_k": str(values.rrf_k),
        "max_tokens": str(values.max_tokens),
    }
    sections = {"cloud" if values.cloud else "self_hosted"}
    if values.encoder is not None:
        sections.add("encoder")
    left_out = set()
    if values.encoder is None:
        left_out = {f"search/query-profiles/{name}.xml" for name in EMBEDDING_PROFILES}
    files: dict[str, PackageFile] = {
        path: fill(template, texts, sections, path).encode()
        for path, template in templates(values.nodes)
        if path not in left_out
    }
    if values.encoder is not None:
        for path, name in zip(MODEL_FILES, (TEXT_TOWER, TOKENIZER_FILE), strict=True):
            files[path] = _encoder_file(values.encoder, name)
    if values.allowed:
        until = (date.today() if today is None else today) + timedelta(days=OVERRIDE_DAYS)
        files[OVERRIDES_FILE] = _overrides(values.allowed, until)
    return dict(sorted(files.items()))


def templates(nodes: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield path and text of each file of vespa_app, without what is there for people and Python.

    `nodes` is a folder whose services.xml and hosts.xml come in place of ours. Raises UsageError
    where one of them is missing.
    """
    root = importlib.resources.files("vespa_app")
    for part in PARTS:
        if nodes is None or part != SERVICES_FILE:
            yield from _texts(root / part, part)
    if nodes is not None:
        for name in (SERVICES_FILE, HOSTS_FILE):
            if not (nodes / name).is_file():
                raise UsageError(f"{nodes / name}: no such file; --nodes FOLDER must hold one")
            yield name, (nodes / name).read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str], sections: set[str], name: str) -> str:
    """Return `text` with its values filled in and its sections kept or cut.

    Raises ValueError, naming the file, for a name that is unknown or a brace that is left.
    """

    def section(found: re.Match[str]) -> str:
        if found.group(1) not in _SECTIONS:
            raise ValueError(f"{name}: unknown section {found.group(1)!r}")
        return found.group(2) if found.group(1) in sections else ""

    def value(found: re.Match[str]) -> str:
        if found.group(1) not in values:
            raise ValueError(f"{name}: unknown value {found.group(1)!r}")
        return values[found.group(1)]

    filled = _VALUE.sub(value, _SECTION.sub(section, text))
    left = _LEFT_OVER.search(filled)
    if left:
        raise ValueError(f"{name}: {left.group()} is left over")
    return filled


def write_folder(package: Package, folder: Path, *, yes: bool = False) -> None:
    """Write the package into `folder`, in place of an older one there.

    What others put there stays, and nothing that was changed there is replaced: see
    `finetune.files.ownership`. With `yes`, a package of an earlier version, which has no list of
    its
    files, is replaced too. Raises UsageError where the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; name a folder for the package")
    if folder.is_dir() and any(folder.iterdir()):
        mark = read_mark(folder)
        if mark is None and not (folder / SERVICES_FILE).is_file():
            raise UsageError(
                f"{folder}: holds something that is no application package; name another"
            )
        if mark is not None and mark.kind != APPLICATION_PACKAGE:
            raise UsageError(f"{folder}: is another kind of folder, {mark.kind}; name another")
    update_files(folder, _kind(package), package, what=f"--render {folder}", yes=yes)


def _kind(package: Package) -> FolderKind:
    """Return the kind of the folder, with all files that any package of ours may have."""
    ours = [path for path, _ in templates()]
    return FolderKind(APPLICATION_PACKAGE, (*ours, OVERRIDES_FILE, *MODEL_FILES, *package))


def write_zip(package: Package, path: Path) -> None:
    """Write the package as a zip; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, file in package.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as out:
                for chunk in chunks(file):
                    out.write(chunk)


def md5_of(file: PackageFile) -> str:
    """Return the md5 in hex, by which the config server tells files apart."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _check(values: PackageValues) -> None:
    if values.dimension < 1:
        raise UsageError(f"the dimension is {values.dimension}; it must be at least 1")
    if values.precision not in EMBEDDING_PRECISIONS:
        raise UsageError(
            f"unknown precision {values.precision!r}; known: {', '.join(EMBEDDING_PRECISIONS)}"
        )
    if values.language not in LANGUAGES:
        raise UsageError(f"unknown language {values.language!r}; known: {', '.join(LANGUAGES)}")
    check_weights(values.bm25_weight, values.vector_weight)
    for allowed in values.allowed:
        if not re.fullmatch(r"[a-z0-9-]+", allowed):
            raise UsageError(f"{allowed!r} is no validation id; Vespa's message names the one")


def _texts(node: Traversable, path: str) -> Iterator[tuple[str, str]]:
    if node.is_file():
        yield path, node.read_text(encoding="utf-8")
        return
    for child in sorted(node.iterdir(), key=lambda one: one.name):
        if not child.name.startswith((".", "_")):
            yield from _texts(child, f"{path}/{child.name}")


def _encoder_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise EncoderError(f"{folder}: {name} is missing; export the encoder again")
    return path


def _overrides(allowed: tuple[str, ...], until: date) -> bytes:
    lines = [f'  <allow until="{until.isoformat()}">{one}</allow>' for one in allowed]
    return "\n".join(["<validation-overrides>", *lines, "</validation-overrides>", ""]).encode()


def _decimal(value: float) -> str:
    """Return a number without an exponent."""
    text = format(Decimal(repr(float(value))), "f")
    return text if "." in text else f"{text}.0"
