"""Fixtures for all tests: small made-up pictures, the recorded Vespa answers, and ../shared."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine makes any example slow; what must be quick is timed where it is promised.
settings.register_profile("suite", settings.default, deadline=None)
settings.load_profile("suite")
# Two busy processes with two threads each are many times slower than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Hundreds of commands are started, and each would compile all of our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell starts what runs in its background without ears for Ctrl-C, and so would be all programs
# that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

SERVER = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run side by side, which is all of them, start what they start commands by."""
    if not getattr(config.option, "numprocesses", None):
        # This process collects tests; nothing that it imports for that is garbage.
        gc.disable()
    elif sys.platform == "linux":
        from clipsearch_command import start_command_server

        config.stash[SERVER] = start_command_server()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let what was imported stay: else it is looked through with each collection of garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVER in config.stash:
        from clipsearch_command import stop_command_server

        stop_command_server(config.stash[SERVER])


REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def recorded() -> Path:
    """What a real Vespa answered, copied into the repository."""
    return REPOSITORY / "tests" / "recorded"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Files that tests were given and nobody recorded."""
    return REPOSITORY / "tests" / "fixtures"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large data beside the repository; tests that need it skip without it.

    Each has a small twin that does not.
    """
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the large data sets, which are not in the repository")
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder folder of a tiny CLIP, not trained (see tiny_encoder); copy it to change it."""
    from tiny_encoder import build_encoder

    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    build_encoder(folder)
    return folder
