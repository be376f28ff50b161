"""How many users there are when: ramp, spike, soak, and the search for the highest rate within a limit.

Locust takes the first shape class it finds in a locustfile, so these are chosen by `--shape` and kept out of
the locustfile's names. The functions of time are pure; `UserShape` puts one of them under Locust's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from locust import LoadTestShape

Plan = Callable[[float], int | None]
"""Seconds since the start to a number of users; None ends the run."""

STEP_S = 8.0
SETTLE_S = 3.0
"""Of each step of a search, left out: workers report every second, and users are still being started."""


def ramp(users: int, duration_s: float) -> Plan:
    """From one user to all of them in a straight line."""
    return lambda t_s: None if t_s >= duration_s else max(1, round(users * min(1.0, t_s / duration_s + 0.1)))


def spike(users: int, duration_s: float) -> Plan:
    """A tenth of the users, all of them in the middle third, a tenth again."""
    low = max(1, users // 10)
    return lambda t_s: None if t_s >= duration_s else (users if 1 <= t_s / duration_s * 3 < 2 else low)


def soak(users: int, duration_s: float) -> Plan:
    """All users all the time."""
    return lambda t_s: None if t_s >= duration_s else users


class RateSearch:
    """Finds the most users whose p99 stays within `limit_us`: doubles until it does not, then halves the gap.

    Pure: give `next` what the last step measured. `best` is the answer so far, 0 where even one step failed.
    """

    def __init__(self, limit_us: float, *, start: int, most: int) -> None:
        self._limit_us = limit_us
        self._most = most
        self.users = max(1, min(start, most))
        self.best = 0
        self._failed: int | None = None
        self.steps: list[dict[str, Any]] = []

    def next(self, p99_us: float | None) -> int | None:
        """The next number of users; None when the answer is within a tenth. Nothing measured is a failure."""
        holds = p99_us is not None and p99_us <= self._limit_us
        self.steps.append({"users": self.users, "p99_us": p99_us, "holds": holds})
        if holds:
            self.best = self.users
        else:
            self._failed = self.users
        if self._failed is None:
            if self.users == self._most:
                return None
            self.users = min(self._most, self.users * 2)
        else:
            if self._failed - self.best <= max(1, self.best // 10):
                return None
            self.users = (self.best + self._failed) // 2
        return self.users


class UserShape(LoadTestShape):
    """A plan under Locust's clock."""

    abstract = True  # never picked by itself

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def tick(self) -> tuple[int, float] | None:
        users = self._plan(self.get_run_time())
        return None if users is None else (users, 100.0)


class SearchShape(LoadTestShape):
    """A RateSearch in steps. `measure` returns, and forgets, the p99 in µs since it was last called."""

    abstract = True

    def __init__(self, search: RateSearch, measure: Callable[[], float | None], *, step_s: float = STEP_S) -> None:
        super().__init__()
        self.search = search
        self._measure = measure
        self._step_s = step_s
        self._step_began_s = 0.0
        self._settled = False

    def reset_time(self) -> None:
        """A new run. The master calls it twice."""
        super().reset_time()
        self._step_began_s = 0.0

    def tick(self) -> tuple[int, float] | None:
        in_step_s = self.get_run_time() - self._step_began_s
        if in_step_s >= SETTLE_S and not self._settled:
            self._measure()
            self._settled = True
        if in_step_s >= self._step_s:
            if self.search.next(self._measure()) is None:
                return None
            self._step_began_s, self._settled = self.get_run_time(), False
        return self.search.users, 100.0


PLANS = {"ramp": ramp, "spike": spike, "soak": soak}
SHAPES = ("none", *PLANS, "search")
