"""Upload a folder to the Hugging Face hub."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, constants, errors, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from finetune.encoder_folder import CHANGES_IMAGE, CHANGES_PAGE, DESCRIPTION_FILE
from finetune.errors import ClipsearchError, UsageError
from finetune.export.card_metadata import without_places
from finetune.models.hub_client import prepare_hub
from finetune.text.strict_json import dumps

# The base of all errors of the client that the hub's library uses (httpx, since 2.0 httpx2).
HTTPError: type[Exception] = errors.HTTPError

# The files that may name places on this machine.
WITH_PLACES = ("recipe.yaml", "metrics.json", DESCRIPTION_FILE)
# The rows that training could not use, and images of the user's, are nobody else's business.
KEPT_HERE = ("rejected.csv", CHANGES_PAGE, CHANGES_IMAGE)


def check_push(repo: str) -> None:
    """Raise UsageError, before anything slow, where a push to `repo` cannot work."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"--push {repo}: is no id of a hub repository ({reason})") from error
    if repo.count("/") != 1:
        raise UsageError(f"--push {repo}: give the owner too, as in me/{repo or 'encoder'}")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("--push needs the hub, but HF_HUB_OFFLINE is set; unset it")
    prepare_hub()
    if not get_token():
        raise UsageError(
            "--push needs a token that may write; set HF_TOKEN, or log in with: hf auth login"
        )


def push(folder: Path, repo: str, *, private: bool = False, message: str | None = None) -> str:
    """Upload a folder's files in one commit, making the repository where there is none.

    Of paths on this machine, as in recipe.yaml, others get to see the last part; the list of
    rejected rows and the sheets that show images stay here.

    Args:
        folder: An encoder folder or an OpenCLIP checkpoint.
        repo: "owner/name" on the hub.
        private: Of a repository that is made; one that is there stays as it is.
        message: Of the commit.

    Returns the repository's address.

    Raises UsageError where the token is missing or may not write there, and ClipsearchError where
    the hub cannot be reached or refuses. The folder itself is never touched.
    """
    check_push(repo)
    api = HfApi()
    again = f"{folder} is whole, so push again"
    try:
        with _bars_on_terminals_only():
            made = api.create_repo(repo, private=private, exist_ok=True)
            api.create_commit(
                repo,
                operations=_operations(folder),
                commit_message=message or f"Upload {folder.name} with clipsearch",
            )
    except OfflineModeIsEnabled as error:
        raise UsageError("--push needs the hub, but HF_HUB_OFFLINE is set; unset it") from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"--push {repo}: there is no such owner, or your token may not write there"
        ) from error
    except HfHubHTTPError as error:
        raise _refused(repo, error, again) from error
    except (OSError, HTTPError) as error:
        raise ClipsearchError(
            f"--push {repo}: the hub cannot be reached ({error}); {again} when it can"
        ) from error
    except (ValueError, RuntimeError) as error:
        # What the client makes of an upload of one file that failed.
        cause = " ".join(str(error.__cause__ or error).split())
        raise ClipsearchError(f"--push {repo}: the upload failed ({cause}); {again}") from error
    return str(made)


def _operations(folder: Path) -> list[CommitOperationAdd]:
    operations = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(".") and name not in KEPT_HERE:
            operations.append(CommitOperationAdd(name, _content(path)))
    return operations


def _content(path: Path) -> Path | bytes:
    if path.name not in WITH_PLACES:
        return path
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        value = dumps(without_places(json.loads(text)), indent=2) + "\n"
    else:
        value = yaml.safe_dump(
            without_places(yaml.safe_load(text)), sort_keys=False, allow_unicode=True
        )
    return value.encode()


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    if sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _refused(repo: str, error: HfHubHTTPError, again: str) -> ClipsearchError:
    status = error.response.status_code
    if status in (401, 403):
        return UsageError(
            f"--push {repo}: the hub refused your token ({status}); take one that may write to"
            f" {repo.partition('/')[0]}, in HF_TOKEN or with: hf auth login"
        )
    reason = (error.server_message or str(error)).splitlines()[0]
    return ClipsearchError(f"--push {repo}: the hub refused ({status}: {reason}); {again}")
