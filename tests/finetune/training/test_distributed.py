"""Several processes against one with the joint batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
import torch.multiprocessing as mp
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


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    """Every case in two processes; the answers of both."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(distributed_worker.spawned, (2, free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}-of-2.pt") for rank in range(2)]


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
    mp.spawn(distributed_worker.spawned, (3, free_port(), str(tmp_path)), nprocs=3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}-of-3.pt")
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
