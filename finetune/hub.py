"""Upload a folder to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from finetune.errors import ClipsearchError, UsageError

# The base of all errors of the client that the hub's library uses (httpx, since 2.0 httpx2).
HTTPError: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]


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
    if not get_token():
        raise UsageError(
            "--push needs a token that may write; set HF_TOKEN, or log in with: hf auth login"
        )


def push(folder: Path, repo: str, *, private: bool = False, message: str | None = None) -> str:
    """Upload a folder's files in one commit, making the repository where there is none.

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
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message or f"Upload {folder.name} with clipsearch",
        )
    except OfflineModeIsEnabled as error:
        raise UsageError("--push needs the hub, but HF_HUB_OFFLINE is set; unset it") from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"--push {repo}: there is no such owner, or your token may not write there"
        ) from error
    except HfHubHTTPError as error:
        raise _refused(repo, folder, error) from error
    except (OSError, HTTPError) as error:
        raise ClipsearchError(
            f"--push {repo}: the hub cannot be reached ({error}); {folder} is whole, so push it"
            f" again when there is a connection"
        ) from error
    return str(made)


def _refused(repo: str, folder: Path, error: HfHubHTTPError) -> ClipsearchError:
    status = error.response.status_code
    if status in (401, 403):
        return UsageError(
            f"--push {repo}: the hub refused your token ({status}); take one that may write to"
            f" {repo.partition('/')[0]}, in HF_TOKEN or with: hf auth login"
        )
    reason = (error.server_message or str(error)).splitlines()[0]
    return ClipsearchError(
        f"--push {repo}: the hub refused ({status}: {reason}); {folder} is whole, so push it again"
    )
