"""From the image as a manifest names it to its id and to the file on disk."""

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.files.regular_files import what_it_is
from finetune.images.addresses import AddressBook, is_address
from finetune.text.composed import composed, forms
from finetune.text.numerals import without_point_zero

_DRIVE = re.compile(r"[A-Za-z]:/")
_SHORT_HASH_CHARACTERS = 8
# A folder is listed, rather than asked for so many suffixes of each name, and only a small one.
_SUFFIXES_TO_LIST = 4
_MOST_LISTED = 10_000


class FoundImage(NamedTuple):
    """A file that exists.

    Attributes:
        folder: Counts the lookup's folders, -1 for an absolute path and for an address.
        path: As the file system spells it, which may be another Unicode form than was asked for; of
            an address, that.
        status: Of the file.
    """

    folder: int
    path: str
    status: os.stat_result


class ImageLookup:
    """Finds the files of images that a manifest names.

    A relative path is looked for beside the manifest, then in `images/` beside it, then under
    the folder that the user named; each costs one stat for each suffix. Where there are many, the
    names in a small folder are remembered, and only those that may be there are looked for.

    Args:
        root: The manifest's folder.
        images: The folder that the user named.
        suffixes: Tried in order behind the name (ImageCLEF names images without ".jpg").
        addresses: Fetches images that are named by address.
    """

    def __init__(
        self,
        root: Path,
        images: Path | None = None,
        suffixes: Sequence[str] = ("",),
        addresses: AddressBook | None = None,
    ) -> None:
        self.addresses = AddressBook() if addresses is None else addresses
        # normpath keeps symbolic links: "beside the manifest" is meant as it was named.
        named = [root, root / "images", *([] if images is None else [images])]
        absolute = [Path(os.path.normpath(folder.absolute())) for folder in named]
        self.folders = [folder for folder in dict.fromkeys(absolute) if folder.is_dir()]
        self._prefixes = [folder.as_posix().rstrip("/") + "/" for folder in self.folders]
        resolved = [folder.resolve().as_posix().rstrip("/") + "/" for folder in self.folders]
        self._own_prefixes = tuple(dict.fromkeys([*self._prefixes, *resolved]))
        self._composed_prefixes = tuple(map(composed, self._own_prefixes))
        self._suffixes = tuple(suffixes)
        self._missing: dict[str, bool] = {}
        self._stems: dict[str, frozenset[str] | None] = {}
        self._statuses: dict[str, os.stat_result | None] = {}

    def id_of(self, image: str) -> str:
        """Return the default id of a normalised image path: relative, with `/`, and composed.

        A relative path is its own id. An absolute one is made relative to the folder of the
        lookup that holds it; one that lies elsewhere becomes the file name with the first 8
        hexadecimal digits of the SHA-256 of the whole path: "/a/b/dog.jpg" is "dog-59fc7da9.jpg".
        """
        return self._relative(composed(image), self._composed_prefixes)

    def earlier_id_of(self, image: str) -> str:
        """Return the id that an earlier clipsearch gave the path, whatever its Unicode form."""
        return self._relative(image, self._own_prefixes)

    def _relative(self, image: str, prefixes: Sequence[str]) -> str:
        if not is_absolute(image):
            return image
        for prefix in prefixes:
            if image.startswith(prefix):
                return image[len(prefix) :]
        return id_outside(image)

    def find(self, image: str) -> FoundImage | None:
        """Return the file of a normalised image path; None where there is none.

        Where there is no file of that very name, one whose name has another Unicode form is meant.
        Where there is no "101.0", the file "101" is meant: so a data frame writes the number.
        """
        if is_address(image):
            return self._find_address(image)
        found = self._find(image)
        if found is None and not image.isascii():
            found = self._find_in_other_forms(image)
        if found is None and (whole := without_point_zero(image)) is not None:
            return self._find(whole)
        return found

    def _find_address(self, address: str) -> FoundImage | None:
        file = self.addresses.find(address)
        status = None if file is None else _file_status(str(file))
        return None if status is None else FoundImage(-1, address, status)

    def _find(self, image: str) -> FoundImage | None:
        if is_absolute(image):
            status = _file_status(image)
            return None if status is None else FoundImage(-1, image, status)
        prefixes = list(enumerate(self._prefixes))
        if len(self._suffixes) >= _SUFFIXES_TO_LIST:
            prefixes = [each for each in prefixes if self._may_hold(each[1], image)]
        for suffix in self._suffixes if prefixes else ():
            name = image + suffix
            for number, prefix in prefixes:
                status = _file_status(prefix + name)
                if status is not None:
                    return FoundImage(number, name, status)
        return None

    def _may_hold(self, prefix: str, image: str) -> bool:
        """Return False only where no name in the image's folder begins as the image's name."""
        folder, _, name = (prefix + image).rpartition("/")
        if folder not in self._stems:
            self._stems[folder] = _listed_stems(folder)
        stems = self._stems[folder]
        return stems is None or _in_any_form(name) in stems

    def has_no_folder_of(self, image: str) -> bool:
        """Return whether the image cannot be there, since no folder that would hold it is.

        A folder is looked for once.
        """
        if is_address(image):  # it has a vector, and is not asked for
            return True
        if not image.isascii():  # by another Unicode form of its name it may be
            return False
        folder = image.rpartition("/")[0]
        known = self._missing.get(folder)
        if known is None:
            prefixes = [""] if is_absolute(image) else self._prefixes
            known = not any(os.path.isdir(prefix + folder + "/") for prefix in prefixes)  # noqa: PTH112
            self._missing[folder] = known
        return known

    def status_of(self, shard: str) -> os.stat_result | None:
        """Return the status of a shard, by its path from the manifest's root; looked at once."""
        if shard not in self._statuses:
            self._statuses[shard] = _file_status(self._prefixes[0] + shard)
        return self._statuses[shard]

    def why_missing(self, image: str) -> str:
        """Return why `find` finds nothing, for people."""
        if is_address(image):
            return f"{image}: {self.addresses.failures.get(image, 'its file is gone')}"
        prefixes = [""] if is_absolute(image) else self._prefixes
        for prefix in prefixes:
            try:
                reason = what_it_is(os.stat(prefix + image))  # noqa: PTH116
            except PermissionError as error:
                return f"{image} cannot be reached ({error.strerror})"
            except (OSError, ValueError):
                if os.path.islink(prefix + image):  # noqa: PTH114
                    return f"{image} is a link that leads nowhere"
                continue
            if reason is not None:
                return f"{image} {reason}"
        return f"no file {image} in {self.places()}"

    def _find_in_other_forms(self, image: str) -> FoundImage | None:
        if image.startswith("/"):
            for spelled in _spellings("/", image[1:]):
                status = _file_status(spelled)
                if status is not None:
                    return FoundImage(-1, spelled, status)
            return None
        for suffix in self._suffixes:
            for number, prefix in enumerate(self._prefixes):
                for spelled in _spellings(prefix, image + suffix):
                    status = _file_status(spelled)
                    if status is not None:
                        return FoundImage(number, spelled[len(prefix) :], status)
        return None

    def is_another_file(self, image: str, other: str) -> bool:
        """Return whether two names, of which both are found, are those of different files."""
        found = [self.find(name) for name in (image, other)]
        paths = [Path(self._folder(each.folder), each.path) for each in found if each is not None]
        return len(paths) == 2 and not paths[0].samefile(paths[1])

    def _folder(self, number: int) -> Path:
        return self.folders[number] if number >= 0 else Path()

    def places(self) -> str:
        """Return the folders that are searched, for messages."""
        return " or ".join(str(folder) for folder in self.folders)


def normalise(image: str) -> str:
    """Return the path with `/` for a backslash, without ".", inner ".." and doubled slashes.

    An address stays as it is, and "." before what would be taken for a drive.
    """
    if is_address(image):
        return image
    if "\\" in image:
        image = image.replace("\\", "/")
    if "//" in image or "./" in image or image.endswith(("/", "/.")):
        on_drive = is_absolute(image) and not image.startswith("/")
        if on_drive:  # nothing lies above "C:/", as nothing does above "/"
            return image[:2] + posixpath.normpath("/" + image[2:].lstrip("/"))
        image = posixpath.normpath(image)
        if is_absolute(image) and not image.startswith("/"):
            return f"./{image}"  # a folder that is called "C:"
        # POSIX keeps a leading double slash; it is the same file here.
        if image.startswith("//"):
            image = image[1:]
    return image


def id_outside(image: str) -> str:
    """Return the default id of an absolute path that lies in no folder of a lookup."""
    name, suffix = posixpath.splitext(posixpath.basename(image))
    digest = hashlib.sha256(image.encode()).hexdigest()[:_SHORT_HASH_CHARACTERS]
    return f"{name}-{digest}{suffix}"


def is_absolute(image: str) -> bool:
    """Return whether a normalised path is absolute, on POSIX or on Windows ("C:/…")."""
    return image.startswith("/") or (image[1:3] == ":/" and _DRIVE.match(image) is not None)


def _file_status(path: str) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path a row doubles the time
    except (OSError, ValueError):
        return None
    return status if what_it_is(status) is None else None


def _in_any_form(name: str) -> str:
    """Return the same for all names that a file system may take for one file's."""
    return composed(composed(name).casefold())


def _listed_stems(folder: str) -> frozenset[str] | None:
    """Return the names in a folder, with and without suffix; None where they are too many."""
    stems: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _MOST_LISTED:
                    return None
                stems.add(_in_any_form(entry.name))
                stems.add(_in_any_form(posixpath.splitext(entry.name)[0]))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError):
        return None
    return frozenset(stems)


def _spellings(folder: str, name: str) -> Iterator[str]:
    """Yield paths below `folder` (with its `/`) that exist in some form of each part's name."""
    part, slash, rest = name.partition("/")
    for form in forms(part):
        path = folder + form
        if not os.path.lexists(path):
            continue
        if slash:
            yield from _spellings(path + "/", rest)
        else:
            yield path
