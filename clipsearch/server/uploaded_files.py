"""Images that were sent to be indexed, in a folder of their own.

A file's name is made of a hash over the id of its document and its content: no path or name of a
request reaches the disk, and no two documents share a file.
"""

import hashlib
import io
from contextlib import suppress
from pathlib import Path

from PIL import Image

from finetune.errors import EngineError, UsageError
from finetune.files.atomic import replace_file
from finetune.images.formats import formats_for


class UploadedFiles:
    """The files of one folder, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        """Raise UsageError where the folder cannot be made."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--uploads {folder}: cannot be made ({error.strerror}); name another folder"
            ) from error

    def keep(self, id: str, data: bytes) -> Path:
        """Write the image of a document, whole or not at all. Raises EngineError (disk full)."""
        path = self._place(id, data)
        try:
            path.parent.mkdir(exist_ok=True)
            replace_file(path, [data])
        except OSError as error:
            raise EngineError(
                f"the image cannot be kept in {self.folder} ({error.strerror}); mend that, then"
                f" send it again"
            ) from error
        return path

    def remove(self, id: str, path: str) -> None:
        """Remove the file that was kept for a document; any other, a manifest's, is left alone."""
        file = Path(path)
        if not path or not file.is_relative_to(self.folder):
            return
        with suppress(OSError, ValueError):
            if file == self._place(id, file.read_bytes()):
                file.unlink()

    def _place(self, id: str, data: bytes) -> Path:
        name = hashlib.sha256(id.encode(errors="surrogatepass") + b"\0" + data).hexdigest()
        with Image.open(io.BytesIO(data), formats=formats_for(data)) as image:
            suffix = (image.format or "image").lower()
        return self.folder / name[:2] / f"{name}.{suffix}"
