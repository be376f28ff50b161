from __future__ import annotations

import pytest

from podrace.loadtests.shapes import RateSearch, ramp, soak, spike


def test_a_ramp_rises_and_ends() -> None:
    plan = ramp(100, 10)
    users = [plan(t) for t in range(11)]
    assert users[:10] == sorted(users[:10])
    assert (users[0], users[9], users[10]) == (10, 100, None)


def test_a_spike_is_in_the_middle_third() -> None:
    plan = spike(100, 9)
    assert [plan(t) for t in range(10)] == [10, 10, 10, 100, 100, 100, 10, 10, 10, None]


def test_a_soak_is_flat() -> None:
    assert [soak(7, 2)(t) for t in (0, 1.9, 2)] == [7, 7, None]


@pytest.mark.parametrize("capacity", [3, 10, 37, 100, 777])
def test_the_search_finds_the_highest_within_a_tenth(capacity: int) -> None:
    search = RateSearch(1000, start=4, most=10_000)
    users: int | None = search.users
    while users is not None:
        users = search.next(900 if users <= capacity else 5000)
    assert capacity - max(1, capacity // 10) <= search.best <= capacity
    assert len(search.steps) < 20


def test_a_search_that_never_holds_says_none() -> None:
    search = RateSearch(1, start=1, most=8)
    assert search.next(50) is None
    assert search.best == 0


def test_a_search_ends_at_the_most() -> None:
    search = RateSearch(1000, start=6, most=8)
    assert search.next(1) == 8
    assert search.next(1) is None
    assert search.best == 8


def test_nothing_measured_is_no_success() -> None:
    assert RateSearch(1000, start=1, most=8).next(None) is None
