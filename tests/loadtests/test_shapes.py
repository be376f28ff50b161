from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from podrace.loadtests.shapes import SETTLE_S, STEP_S, RateSearch, SearchShape, SpikeShape, Window


def test_a_spike_is_in_the_middle_third(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SpikeShape(100, 9)
    seconds = iter(range(10))
    monkeypatch.setattr(shape, "get_run_time", lambda: next(seconds))
    assert [shape.tick() for _ in range(10)] == [(n, 100.0) for n in (10, 10, 10, 100, 100, 100, 10, 10, 10)] + [None]


def measured(p99_us: float | None) -> Window:
    return Window(p99_us=p99_us, tasks_per_s=1.0)


@pytest.mark.parametrize("capacity", [3, 10, 37, 100, 777])
def test_the_search_finds_the_highest_within_a_tenth(capacity: float) -> None:
    search = RateSearch(1000, start_per_s=4)
    rate: float | None = search.rate_per_s
    while rate is not None:
        rate = search.next(measured(900 if rate <= capacity else 5000))
    assert capacity * 0.85 <= search.best_per_s <= capacity
    assert len(search.steps) < 25


def test_a_limit_is_confirmed_by_a_second_window() -> None:
    """A single bad window in ten is bad luck."""
    search = RateSearch(1000, start_per_s=10)
    assert search.next(measured(5000)) == 10
    assert search.next(measured(900)) == 20
    assert search.next(measured(5000)) == 20
    assert search.next(measured(5000)) == 15
    assert search.best_per_s == 10


def test_the_answer_is_confirmed_and_taken_back_where_it_does_not_hold_again() -> None:
    search = RateSearch(1000, start_per_s=100)
    asked = 0
    rate: float | None = 100.0
    while rate is not None:
        asked += rate == 100
        rate = search.next(measured(900 if rate < 100 or (rate == 100 and asked == 1) else 5000))
    assert 80 < search.best_per_s < 100


def test_a_search_that_never_holds_ends_and_says_none() -> None:
    search = RateSearch(1, start_per_s=8)
    rate: float | None = 8.0
    while rate is not None:
        rate = search.next(measured(50))
    assert search.best_per_s == 0
    assert len(search.steps) < 15


def test_the_generator_ends_a_search() -> None:
    search = RateSearch(1000, start_per_s=8)
    assert search.next(measured(900)) == 16
    assert search.next(Window(p99_us=900, generator="the generator is the limit")) is None
    assert (search.best_per_s, search.stopped) == (8, "the generator is the limit")


def test_a_window_without_samples_does_not_hold() -> None:
    search = RateSearch(1000, start_per_s=1)
    search.next(measured(None))
    assert search.steps[0]["holds"] is False


def test_a_second_run_begins_its_search_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from the page: what the run before has found is not told of this one."""
    rates: list[float] = []
    forgotten: list[int] = []
    master: Any = SimpleNamespace(
        options=SimpleNamespace(slo_p99_us=1000, rate=8, num_users=None),
        reset=lambda: forgotten.append(len(rates)),
        window=lambda: measured(900),
        set_rate=rates.append,
    )
    shape = SearchShape(master)
    for _ in range(2):
        shape.reset_time()
        now_s = iter([SETTLE_S, STEP_S, STEP_S, STEP_S + SETTLE_S])
        monkeypatch.setattr(shape, "get_run_time", lambda now_s=now_s: next(now_s))
        assert [shape.tick() for _ in range(3)] == [(20, 100.0)] * 3
        assert [step["rate"] for step in shape.search.steps] == [8]
    assert (rates, forgotten) == ([16, 16], [0, 1, 1, 2])
