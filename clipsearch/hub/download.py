"""Files of the hub, fetched once: a download goes on where it broke off, and is checked by hash."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from clipsearch.hub.connection import CutError, HubConnection
from finetune.console import Progress
from finetune.errors import HubError

# Connections in a row that bring nothing, before the hub is given up.
MOST_FAILURES = 3
_READ_BYTES = 1 << 18
MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model, as the hub describes it.

    Attributes:
        path: In the model.
        size: Bytes.
        sha256: Of the content, which the hub names for large files; "" for others.
        blob: git's hash, SHA-1 of a header and the content; of large files another one.
    """

    path: str
    size: int
    sha256: str
    blob: str

    @property
    def key(self) -> str:
        """The hash by which the content is known and checked."""
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one commit.

    Attributes:
        id: "owner/name".
        commit: Files are fetched of this one, so that they fit each other.
        license: As its card names it; "" where it names none.
        files: By path.
    """

    id: str
    commit: str
    license: str
    files: dict[str, HubFile]


def look_up(hub: HubConnection, model: str) -> HubModel:
    """Ask the hub what files a model has, with size and hash. Raises HubError."""
    told = hub.json(f"api/models/{model}?blobs=true", model)
    try:
        files = {}
        for each in told["siblings"]:
            large = each.get("lfs") or {}
            path, size = str(each["rfilename"]), int(each["size"])
            files[path] = HubFile(path, size, str(large.get("sha256", "")), str(each["blobId"]))
        card = told.get("cardData") or {}
        license = card.get("license") or ""
        return HubModel(model, str(told["sha"]), str(license), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{hub.endpoint}: does not describe {model} as a Hugging Face hub does"
            f" ({type(error).__name__}: {error}); is HF_ENDPOINT right?"
        ) from error


def download(
    hub: HubConnection, model: HubModel, file: HubFile, folder: Path, progress: Progress
) -> Path:
    """Fetch a file into `folder`, under its hash for a name, unless it lies there whole.

    `progress` counts megabytes. Raises HubError where the hub does not send it, or sends another
    content than it named, and OSError.
    """
    done = folder / file.key
    if done.is_file() and _is_right(done, file):
        progress.advance(round(file.size / MEGABYTE))
        return done
    partial = folder / f"{file.key}.partial"
    _fetch(hub, model, file, partial, progress)
    if not _is_right(partial, file):
        partial.unlink()
        raise HubError(
            f"{model.id}: {file.path} came with another content than the hub names"
            f" ({file.key[:12]}…), and was thrown away; run the same command again"
        )
    partial.replace(done)
    return done


def check_space(files: list[HubFile], folder: Path) -> None:
    """Raise HubError where what is still to come does not fit on the disk of `folder`."""
    there = sum(
        path.stat().st_size
        for file in files
        for path in (folder / file.key, folder / f"{file.key}.partial")
        if path.is_file()
    )
    needed = sum(file.size for file in files) - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{folder}: {needed / MEGABYTE:,.0f} MB are to come, but the disk has"
            f" {free / MEGABYTE:,.0f} MB left; free some space and run the same command again"
        )


def _fetch(
    hub: HubConnection, model: HubModel, file: HubFile, partial: Path, progress: Progress
) -> None:
    """Bring `partial` to the file's size, over as many connections as that takes."""
    failures = 0
    before = _size(partial)
    if before > file.size:
        partial.unlink()
        before = 0
    progress.advance(round(before / MEGABYTE))
    while (have := _size(partial)) < file.size or not partial.exists():
        try:
            _append(hub, model, file, partial, have, progress)
        except CutError as error:
            failures = 0 if _size(partial) > have else failures + 1
            if failures >= MOST_FAILURES:
                raise hub.gone(error) from error


def _append(
    hub: HubConnection,
    model: HubModel,
    file: HubFile,
    partial: Path,
    have: int,
    progress: Progress,
) -> None:
    path = f"{model.id}/resolve/{model.commit}/{file.path}"
    with hub.open(path, model.id, start=have) as answer:
        goes_on = getattr(answer, "status", 200) == 206
        come = have if goes_on else 0
        with partial.open("ab" if goes_on else "wb") as out:
            while come < file.size:
                try:
                    part = answer.read(min(_READ_BYTES, file.size - come))
                except (OSError, HTTPException) as error:
                    raise CutError(str(error) or type(error).__name__) from error
                if not part:
                    raise CutError("the connection was closed")
                out.write(part)
                progress.advance(_whole(come + len(part)) - _whole(come))
                come += len(part)
            out.flush()
            os.fsync(out.fileno())


def _whole(size: int) -> int:
    return round(size / MEGABYTE)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_right(path: Path, file: HubFile) -> bool:
    """Return whether the content has the hash that the hub names."""
    if path.stat().st_size != file.size:
        return False
    # The hash of git, which the hub names for small files, is no choice of ours.
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(f"blob {file.size}\0".encode())
    with path.open("rb") as content:
        while part := content.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest() == file.key
