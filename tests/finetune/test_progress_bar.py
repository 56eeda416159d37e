"""`Progress`: what it says of time, which people plan by."""

import io

import pytest

from finetune.console import Progress


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("total", [96, 30_000])
def test_time_left_counts_from_the_steps_after_the_first_slow_one(total: int) -> None:
    clock = Clock()
    bar = Progress("feed", total, stream=io.StringIO(), clock=clock)
    clock.now = 60.0  # what the first batch waits for: models, processes
    bar.advance(8)
    assert "left" not in bar.line()
    clock.now += 1.0
    bar.advance(8)
    assert "left" not in bar.line()
    clock.now += 3.0
    bar.advance(24)
    # 32 in the 4 seconds after the first batch
    assert f"{'7s' if total == 96 else '1h02m'} left" in bar.line()


def test_what_follows_the_last_step_is_said_below_a_bar_that_has_ended() -> None:
    clock, shown = Clock(), io.StringIO()
    with Progress("Training", 2, unit="steps", stream=shown, clock=clock) as bar:
        clock.now = 60.0
        bar.advance(2)
        bar.end()
        bar.message("Drawing plots …")
        clock.now = 600.0
    assert shown.getvalue().splitlines() == [
        "Training  2/2 steps  100%  30 s each  in 1m00s",
        "Training  2/2 steps  100%  30 s each  in 1m00s",
        "Drawing plots …",
    ]
