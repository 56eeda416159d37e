"""Several processes against one with the joint batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
import torch.distributed as dist
from clipsearch_command import CODE
from distributed_worker import CASES
from random_batch import assert_close

from finetune.data.world import World
from finetune.errors import UsageError
from finetune.losses.contrastive import contrastive_loss
from finetune.training.gradients.distributed import GatheredLoss, gather, join_world

WORKER = Path(distributed_worker.__file__)
TALK = [
    "any", "later", "from first", "from all", "failure of the first", "average",
    "different weights", "gather", "wrong share",
]  # fmt: skip
ALONE = World(0, 1, torch.device("cpu"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def joint() -> dict:
    """Every case in one process."""
    return {case.name: distributed_worker.train(case, ALONE) for case in CASES}


SPAWNED = """
import sys
sys.path.insert(0, sys.argv[1])
from distributed_worker import spawned
rank, size, port = map(int, sys.argv[2:5])
spawned(rank, size, port, sys.argv[5])
"""


def in_processes(size: int, folder: Path) -> list[dict]:
    """Every case in so many processes; the answers of all."""
    # A port that is only looked for may be another's when it is needed: this one is held.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [
        subprocess.Popen(
            [*CODE, SPAWNED, *map(str, (WORKER.parent, rank, size, store.port, folder))],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}-of-{size}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    return in_processes(2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_two_processes_have_the_joint_batchs_gradients(case, joint, two_processes) -> None:
    for found in two_processes:
        assert_close(found[case]["gradients"], joint[case]["gradients"], 1e-6)
        assert_close(found[case]["weights"], joint[case]["weights"], 1e-6)
        torch.testing.assert_close(found[case]["losses"], joint[case]["losses"])
    first, second = two_processes
    for name, weight in first[case]["weights"].items():
        assert torch.equal(weight, second[case]["weights"][name]), name


def test_processes_talk(two_processes) -> None:
    for found in two_processes:
        assert found["talk"] == TALK


def test_a_signal_to_one_process_stops_all_after_the_same_step(two_processes) -> None:
    (taken, saved), (taken_by_other, _) = (found["stopped"] for found in two_processes)
    # what is sent after the third step is known to all after the fourth
    assert taken == taken_by_other == saved == 4


def test_one_process_is_the_loss_itself() -> None:
    images = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    pairs, scale = torch.eye(4, dtype=torch.bool), torch.tensor(1.0)
    loss = GatheredLoss(contrastive_loss, ALONE)(images, images, scale, pairs)
    assert torch.equal(loss, contrastive_loss(images, images, scale, pairs))
    assert ALONE.from_first(lambda: 7) == 7
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.later().any(True)
    with pytest.raises(ValueError, match="share of 5 is 5"):
        gather(images, 5, ALONE)


def launched(module: list[str], folder: Path) -> list[dict]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, "-m", *module, str(WORKER), str(folder)],
        capture_output=True, text=True, env=environment, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}-of-2.pt") for rank in range(2)]


@pytest.mark.slow
def test_runs_under_torchrun(tmp_path, joint) -> None:
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    for found in launched(command, tmp_path):
        assert_close(found["plain"]["gradients"], joint["plain"]["gradients"], 1e-6)


@pytest.mark.slow
def test_runs_under_accelerate(tmp_path, joint) -> None:
    pytest.importorskip("accelerate")
    command = [
        "accelerate.commands.launch", "--cpu", "--multi_cpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(free_port()),
    ]  # fmt: skip
    for found in launched(command, tmp_path):
        assert_close(found["plain"]["gradients"], joint["plain"]["gradients"], 1e-6)


@pytest.mark.slow
def test_three_processes(tmp_path, joint) -> None:
    for found in in_processes(3, tmp_path):
        assert found["talk"] == TALK
        for case in CASES:
            assert_close(found[case.name]["weights"], joint[case.name]["weights"], 1e-6)


def test_one_gpu_for_all_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UsageError, match="--device cuda:0 is one GPU for 2 processes"), \
            join_world("cuda:0"):  # fmt: skip
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="more processes than the 1 GPUs"), join_world("cuda"):
        pass
