"""Iterating ahead in a thread: order, bounds, errors in their place, and an early end."""

import threading
import time
from collections.abc import Iterator

import pytest

from finetune.read_ahead import read_ahead


def test_it_keeps_order_and_is_bounded() -> None:
    produced: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            produced.append(number)
            yield number

    items = read_ahead(numbers(), 5)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(produced) <= 1 + 5 + 2  # one taken, five waiting, one in the making
    assert list(items) == list(range(1, 100))


def test_it_raises_after_what_came_before() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for number in read_ahead(numbers(), 10):
            seen.append(number)  # noqa: PERF402
    assert seen == [1, 2]


def test_it_closed_early_closes_its_items_in_their_thread() -> None:
    closed_in: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    items = read_ahead(numbers(), 2)
    next(items)
    items.close()
    assert closed_in == ["clipsearch-ahead"]
    assert not any(thread.name == "clipsearch-ahead" for thread in threading.enumerate())
