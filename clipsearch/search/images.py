"""Where the image of a document lies on this machine."""

import os
import tarfile
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clipsearch.engine import IndexInfo
from finetune.images.address_cache import cached_file
from finetune.images.addresses import is_address
from finetune.manifest.fields.tar_members import open_shard, regular_members
from finetune.text.composed import forms

if TYPE_CHECKING:
    from finetune.images.source import ImageSource


class ImageFolders:
    """Finds images by the path that their documents have.

    An absolute path is taken as it is. A relative one is looked for under `images`, then under
    the folder that the index was fed from (and `images/` in it), then under the working folder.
    """

    def __init__(self, info: IndexInfo, images: Path | None = None) -> None:
        """Look under `images` first, then where `info` says that the paths were meant from."""
        roots = [] if images is None else [images]
        if info.images_root is not None:
            roots += [Path(info.images_root), Path(info.images_root) / "images"]
        self._roots = (*roots, Path())
        self._shards: dict[Path, dict[str, tuple[int, int]]] = {}

    def find(self, path: str) -> Path | None:
        """Return the absolute path of the image file.

        None where there is none on this machine.
        """
        if not path:
            return None
        if is_address(path):
            file = cached_file(path)
            return file if file.is_file() else None
        found = self._first(path)
        return found.resolve() if found is not None and found.is_file() else None

    def has(self, path: str) -> bool:
        """Return whether the image is on this machine, as far as its file, or its tar, tells.

        An address is: it is fetched where it is needed.
        """
        if is_address(path) or self.find(path) is not None:
            return True
        shards = PurePosixPath(path).parents if ".tar/" in path else ()
        return any(each.suffix == ".tar" and self._first(str(each)) for each in shards)

    def source(self, path: str) -> "ImageSource | None":
        """Return where the image's bytes lie: a file, or a member of a tar (`shard.tar/name.jpg`).

        None where it is not on this machine. A tar that cannot be read holds no images.
        """
        from finetune.images.source import ImageSource  # light path: Pillow, which few queries need

        found = self.find(path)
        if found is not None:
            return ImageSource(found)
        for shard in PurePosixPath(path).parents if ".tar/" in path else ():
            archive = self._first(str(shard)) if shard.suffix == ".tar" else None
            if archive is not None and archive.is_file():
                member = str(PurePosixPath(path).relative_to(shard))
                place = self._members(archive).get(member)
                return None if place is None else ImageSource(archive, *place)
        return None

    def _first(self, path: str) -> Path | None:
        """Return the first root under which this name exists, in whichever Unicode form."""
        for root, name in product(self._roots, forms(path)):
            # As text: every hit of an answer is looked for, and a Path costs more than to look.
            place = os.path.join(root, name)  # noqa: PTH118
            if os.path.exists(place):  # noqa: PTH110
                return Path(place)
        return None

    def _members(self, archive: Path) -> dict[str, tuple[int, int]]:
        """Return the (offset, size) of each member's bytes by its name."""
        if archive not in self._shards:
            try:
                with open_shard(archive) as tar:
                    self._shards[archive] = {
                        member.name.removeprefix("./"): (member.offset_data, member.size)
                        for member in regular_members(tar)
                        if not member.issparse()
                    }
            except (OSError, tarfile.TarError):
                self._shards[archive] = {}
        return self._shards[archive]
