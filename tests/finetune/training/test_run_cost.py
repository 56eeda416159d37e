"""What a run took, over its interruptions."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from finetune.training import run_cost
from finetune.training.run_cost import Laps, RunCost, estimated_impact, machine_facts

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    times = iter([0.0, 10.0, 13.0, 17.0])
    # In that module alone: threads of other tests ask for the time as well.
    monkeypatch.setattr(run_cost, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_laps_tell_steps_from_the_rest(clock) -> None:
    cost = RunCost(pairs=700)
    laps = Laps(cost)
    laps.end(steps=True)
    laps.end(steps=False)
    laps.end(steps=True)
    assert (cost.seconds, cost.step_seconds) == (17.0, 14.0)
    assert cost.as_dict()["pairs_per_second"] == 50.0


def test_a_resumed_run_adds_up(clock) -> None:
    checkpoint = asdict(RunCost(seconds=100.0, step_seconds=90.0, pairs=9000, resident_bytes=2**50))
    cost = RunCost().resumed(checkpoint, step=30)
    Laps(cost).end(steps=True)
    cost.note_memory(CPU)
    assert (cost.seconds, cost.step_seconds, cost.interruptions) == (110.0, 100.0, 1)
    assert cost.resident_bytes == 2**50
    assert cost.resumed(asdict(cost), step=60).interruptions == 2


def test_a_checkpoint_of_an_earlier_version_counts_from_its_step() -> None:
    cost = RunCost().resumed(None, step=30)
    assert (cost.since_step, cost.seconds, cost.interruptions) == (30, 0.0, 1)
    assert cost.as_dict()["pairs_per_second"] == 0.0


def test_memory_and_machine_are_measured() -> None:
    cost = RunCost()
    cost.note_memory(CPU)
    assert 2**26 < cost.resident_bytes < 2**45
    assert cost.gpu_bytes == 0
    facts = machine_facts(CPU, 2)
    assert facts["processes"] == 2
    assert facts["versions"]["torch"] == torch.__version__
    assert "cores" in facts["hardware"]


def test_an_estimate_needs_the_power() -> None:
    assert estimated_impact(3600, None, 50.0) == {}
    assert estimated_impact(3600, 500.0, None) == {"kwh": 0.5, "seconds": 3600, "watts": 500.0}
    assert estimated_impact(3600, 500.0, 50.0)["kg_co2eq"] == pytest.approx(0.025)
