"""Which class each image of a manifest has, from a column or from a file beside it.

Imports without torch.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune.errors import ManifestError, UsageError
from finetune.files.regular_files import read_regular
from finetune.manifest.formats.row import MetadataValue
from finetune.manifest.manifest import Manifest, Record
from finetune.text.composed import composed
from finetune.text.numerals import value_text

IMAGE_COLUMNS = ("image", "id", "path", "filename", "file_name", "filepath")
CLASS_COLUMNS = ("class", "category", "label")

MAX_FILE_BYTES = 64 << 20
# Lists of classes that ship, found by name: "rsicd-classes.txt".
CLASS_LISTS = Path(__file__).with_name("class_lists")

ClassOf = Callable[[Record], str | None]

_NUMBER_AT_END = re.compile(r"[\W_]*\d+$")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The classes of a manifest.

    Attributes:
        names: Sorted, each once; a file's are all that it names, also those that no image has.
        of_image: Image id to row of `names`; images without a class are not in it.
        source: The column or file that says so.
    """

    names: tuple[str, ...]
    of_image: Mapping[str, int]
    source: str


def read_class_labels(manifest: Manifest, source: str) -> ClassLabels:
    """Read the classes of all images of the manifest, whatever their split.

    So every split has as many.

    Args:
        manifest: An open one.
        source: A metadata column; or else a file or folder:

            - CSV or TSV with a header, a column `image` (or `id`, `path`, `filename`) that names
              each image as the manifest does or by its file name, and one `class` (or `category`,
              `label`);
            - a text file with a class a line: an image's class is the folder that it lies in, or
              its file's name without the number at its end ("airport_12.jpg");
            - a folder with a file "airport.txt" for each class, an image's file name a line;

            or the name of a list of classes in CLASS_LISTS.

    Raises UsageError where `source` is neither column nor file, ManifestError where no image has a
    class or there is only one.
    """
    return read_joint_class_labels([manifest], source)[0]


def read_joint_class_labels(manifests: Sequence[Manifest], source: str) -> list[ClassLabels]:
    """Read the classes of the images of each manifest; one may have none, but not all.

    Arguments and errors are those of `read_class_labels`. `names` are each manifest's own.
    """
    columns = {column for manifest in manifests for column in manifest.columns()}
    paths = ", ".join(str(manifest.path) for manifest in manifests)
    known: frozenset[str] = frozenset()
    class_of: ClassOf
    if composed(source) in columns:

        def class_of(record: Record) -> str | None:
            return _name(record.metadata.get(composed(source)))

    elif (file := class_file(source)) is not None:
        known, class_of = _read_file(file)
    else:
        raise UsageError(
            f"{source} is neither a column of {paths} nor a file; its columns are"
            f" {', '.join(sorted(columns)) or 'none'}, and lists of classes that ship are"
            f" {', '.join(sorted(each.name for each in CLASS_LISTS.glob('*.txt')))}"
        )
    found = [_labels(manifest, known, class_of, source) for manifest in manifests]
    if not any(labels.of_image for labels in found):
        raise ManifestError(f"{source}: names the class of no image of {paths}")
    names = {name for labels in found for name in labels.names}
    if len(names) == 1:
        raise ManifestError(
            f"{source}: every image has the class {names.pop()}; with one there is nothing to"
            f" choose"
        )
    return found


def class_file(source: str) -> Path | None:
    """Return the file or folder of classes that is meant, one's own or one that ships, or None.

    A file of one's own goes before one that ships.
    """
    if Path(source).exists():
        return Path(source)
    shipped = CLASS_LISTS / source
    return shipped if shipped.parent == CLASS_LISTS and shipped.is_file() else None


def class_names(path: Path) -> tuple[str, ...]:
    """Return the classes that a file or folder names; see `read_class_labels` for what it may be.

    A list's are in its order, others sorted. Raises ManifestError where it cannot be read, or a
    list has a class twice.
    """
    if not path.is_dir() and _delimiter(lines := _lines(path)) is None:
        return _listed(path, lines)
    return tuple(sorted(_read_file(path)[0]))


def class_words(name: str) -> str:
    """Return a class's name as people would write it: with blanks for underscores."""
    return " ".join(name.replace("_", " ").split())


def check_distinct(names: Iterable[str], where: str) -> None:
    """Raise ManifestError where two names are one class, whatever their case and underscores."""
    known: dict[str, str] = {}
    for name in names:
        words = class_words(name).casefold()
        if words in known:
            twice = f"{name!r} twice" if known[words] == name else f"{known[words]!r} and {name!r}"
            raise ManifestError(f"{where}: has the class {twice}; leave one of them out")
        known[words] = name


def _labels(
    manifest: Manifest, known: frozenset[str], class_of: ClassOf, source: str
) -> ClassLabels:
    pairs = ((record.id, class_of(record)) for record in manifest.records())
    named = {id: name for id, name in pairs if name}
    names = tuple(sorted(known | set(named.values())))
    number = {name: row for row, name in enumerate(names)}
    return ClassLabels(names, {id: number[name] for id, name in named.items()}, source)


def _name(value: MetadataValue) -> str:
    if value is None:
        return ""
    return value_text(value).strip()


def _read_file(path: Path) -> tuple[frozenset[str], ClassOf]:
    """Read all classes that a file or folder names, and what says the class of a record."""
    if path.is_dir():
        return _lookup(path, _folder_rows(path))
    lines = _lines(path)
    delimiter = _delimiter(lines)
    if delimiter is not None:
        return _lookup(path, _table_rows(path, lines, delimiter))
    names = _listed(path, lines)
    return frozenset(names), _by_place(names)


def _delimiter(lines: list[str]) -> str | None:
    """Return what separates the columns of a table; None for a list."""
    return next((mark for mark in ("\t", ",") if lines and mark in lines[0]), None)


def _listed(path: Path, lines: list[str]) -> tuple[str, ...]:
    check_distinct(lines, str(path))
    return tuple(lines)


def _lines(path: Path) -> list[str]:
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    lines = [line.strip() for line in composed(text).splitlines()]
    return [line for line in lines if line]


def _folder_rows(folder: Path) -> Iterator[tuple[str, str]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise ManifestError(f"{folder}: has no .txt files, one for each class")
    for file in files:
        for line in _lines(file):
            yield line, composed(file.stem)


def _table_rows(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[str, str]]:
    rows = csv.DictReader(lines, delimiter=delimiter)
    header = {(name or "").strip().casefold(): name for name in rows.fieldnames or ()}
    image = next((header[name] for name in IMAGE_COLUMNS if name in header), None)
    category = next((header[name] for name in CLASS_COLUMNS if name in header), None)
    if image is None or category is None:
        raise ManifestError(
            f"{path}: its first line is {lines[0]!r}; a table of classes has a column"
            f" {' or '.join(IMAGE_COLUMNS)}, and one {' or '.join(CLASS_COLUMNS)}"
        )
    for row in rows:
        yield (row[image] or "").strip(), (row[category] or "").strip()


def _lookup(path: Path, rows: Iterable[tuple[str, str]]) -> tuple[frozenset[str], ClassOf]:
    """Look up by id, else path, else file name, as `rows` of image and class name them."""
    named: dict[str, str] = {}
    for image, name in rows:
        key = composed(image.replace("\\", "/"))
        if named.setdefault(key, name) != name:
            raise ManifestError(f"{path}: {image} has two classes, {named[key]} and {name}")

    def class_of(record: Record) -> str | None:
        path = composed(record.path)
        for key in (record.id, path, PurePosixPath(path).name):
            if key in named:
                return named[key]
        return None

    return frozenset(named.values()) - {""}, class_of


def _by_place(names: Iterable[str]) -> ClassOf:
    """Tell by the folder that an image lies in, else by its file's name up to the number."""
    known = {_plain(name): name for name in names}

    def class_of(record: Record) -> str | None:
        path = PurePosixPath(record.path)
        stem = _NUMBER_AT_END.sub("", path.stem)
        for part in (*reversed(path.parts[:-1]), stem):
            if _plain(part) in known:
                return known[_plain(part)]
        return None

    return class_of


def _plain(text: str) -> str:
    return _NOT_ALPHANUMERIC.sub("", composed(text).casefold())
