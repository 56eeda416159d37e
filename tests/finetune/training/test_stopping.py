from hypothesis import given
from hypothesis import strategies as st

from finetune.training.early_stopping import EarlyStopping

metrics = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def stopped_at(values: list[float], patience: int, min_delta: float = 0.0) -> int | None:
    stopping = EarlyStopping(patience, min_delta)
    for step, value in enumerate(values):
        stopping.update(step, value)
        if stopping.stop:
            return step
    return None


def test_stops_after_patience_evaluations_without_a_gain() -> None:
    assert stopped_at([0.1, 0.2, 0.2, 0.1, 0.3, 0.3], patience=2) == 3
    assert stopped_at([0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.2], patience=3) == 6
    assert stopped_at([0.5] * 50, patience=0) is None


def test_gains_below_min_delta_do_not_count_even_when_they_add_up_late() -> None:
    assert stopped_at([0.10, 0.11, 0.12, 0.13], patience=2, min_delta=0.05) == 2
    # Measured against the last gain, not the last value: small steps do add up.
    assert stopped_at([0.10, 0.13, 0.16, 0.19, 0.22], patience=2, min_delta=0.05) is None


@given(metrics, st.floats(0, 0.5))
def test_the_best_weights_are_the_first_of_the_highest(values: list[float], min_delta) -> None:
    stopping = EarlyStopping(3, min_delta)
    for step, value in enumerate(values):
        assert stopping.update(step, value) == (value > max(values[:step], default=-1))
    assert stopping.best_step == values.index(max(values))
    assert stopping.best == max(values)


@given(metrics, st.integers(0, 29))
def test_goes_on_from_its_state_as_if_never_saved(values: list[float], cut: int) -> None:
    whole, first = EarlyStopping(2, 0.01), EarlyStopping(2, 0.01)
    for step, value in enumerate(values):
        whole.update(step, value)
        if step == cut:
            first = EarlyStopping.from_state(first.state_dict())
        first.update(step, value)
    assert whole == first
