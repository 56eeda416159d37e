"""What tests start instead of `python -m clipsearch` and `python -c` is as these are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH, CODE, FRESH_CLIPSEARCH, VARIABLE

# Where no server is, as without -n, they are those very programs.
pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason="needs pytest -n")
FRESH_CODE = [sys.executable, "-c"]
ASKS_WHO_IT_IS = "import os, sys; print(os.getpid(), os.getppid(), 'torch' in sys.modules)"


@pytest.fixture(scope="module", autouse=True)
def listening() -> None:
    """The server has imported all."""
    deadline = time.monotonic() + 120
    while not Path(os.environ[VARIABLE]).exists():
        assert time.monotonic() < deadline, "the server of commands does not listen"
        time.sleep(0.1)


def ended(command: list[str], folder: Path, **options) -> tuple[int, str, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words", [("--version",), ("querry",), ("query", "red", "--index", "none"), ("status", "-h")]
)
def test_a_command_prints_and_ends_as_a_fresh_one(words: tuple[str, ...], tmp_path: Path) -> None:
    assert ended([*CLIPSEARCH, *words], tmp_path) == ended([*FRESH_CLIPSEARCH, *words], tmp_path)


def test_code_reads_what_it_is_given_and_ends_as_it_says(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), input()); sys.exit('that is all')"
    expected = (1, f"['-c', 'a b', 'ü'] {tmp_path} typed\n", "that is all\n")
    assert ended([*CODE, code, "a b", "ü"], tmp_path, input="typed\n") == expected


def test_it_is_forked_and_may_have_another_environment(tmp_path: Path) -> None:
    changed = {**os.environ, "CLIPSEARCH_INDEX": "other.index"}
    code = f"{ASKS_WHO_IT_IS}; print(os.environ['CLIPSEARCH_INDEX'])"
    status, printed, _ = ended([*CODE, code], tmp_path, env=changed)
    assert (status, printed.split()[2:]) == (0, ["True", "other.index"])


def test_what_the_hubs_client_has_read_is_read_anew(tmp_path: Path) -> None:
    changed = {
        **os.environ, "HF_ENDPOINT": "http://localhost:9", "XDG_CACHE_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    code = (
        "import huggingface_hub as hub; from huggingface_hub import constants;"
        " print(hub.HfApi().endpoint, hub.hf_hub_url('a/b', 'c'), constants.HF_TOKEN_PATH,"
        " hub.is_offline_mode(), hub.model_info.__self__.endpoint)"
    )
    asked = [ended([*program, code], tmp_path, env=changed) for program in (CODE, FRESH_CODE)]
    assert asked[0] == asked[1]
    assert asked[0][1].split()[0] == "http://localhost:9"


def test_what_imports_would_read_makes_it_a_fresh_one(tmp_path: Path) -> None:
    changed = {**os.environ, "HF_HOME": str(tmp_path)}
    status, printed, _ = ended([*CODE, ASKS_WHO_IT_IS], tmp_path, env=changed)
    assert (status, printed.split()[2]) == (0, "False")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_dies_of_the_signal_that_it_gets(number: signal.Signals, tmp_path: Path) -> None:
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    assert ended([*CODE, code], tmp_path) == (-number, "", "")


def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    code = """
import time
try:
    print("on", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("off")
"""
    with subprocess.Popen([*CODE, code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "off\n"
    assert process.returncode == 0
