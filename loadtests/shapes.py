"""A spike of users, and the search for the highest rate within a limit; a ramp is Locust's own --spawn-rate.

Locust takes the first shape class it finds in a locustfile, so these are chosen by `--shape` and kept out of
the locustfile's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from locust import LoadTestShape

if TYPE_CHECKING:
    from podrace.loadtests.master import Master

SHAPES = ("none", "spike", "search")
USERS = 20
"""Unless --users says otherwise."""
STEP_S = 8.0
SETTLE_S = 3.0
"""The beginning of each step of a search is left out: reports still come from the last step, and its backlog."""
MOST_PER_S = 1_000_000.0


class Window(NamedTuple):
    """What one step measured. `generator`: why the generator was the limit; empty if it was not."""

    p99_us: float | None
    tasks_per_s: float = 0.0
    generator: str = ""


class RateSearch:
    """Finds the highest rate of each user whose p99 stays within `limit_us`: doubles, then halves the gap.

    Pure: give `next` what the last step measured. One bad window may be bad luck: a rate has failed when a second
    window confirms it, and the answer, `best_per_s`, must hold in a second window too. It is 0 where nothing held.
    """

    def __init__(self, limit_us: float, *, start_per_s: float) -> None:
        self._limit_us = limit_us
        self.rate_per_s = start_per_s
        self.best_per_s = 0.0
        self.stopped = ""
        """Why the search ended before it knew: the generator is the limit."""
        self.steps: list[dict[str, Any]] = []
        self._failed_per_s: float | None = None
        self._least_per_s = start_per_s / 8
        self._kept_up: list[float] = []
        self._again = False

    def next(self, window: Window) -> float | None:
        """The next rate; None when the answer is within a tenth, or cannot be known."""
        holds = window.p99_us is not None and window.p99_us <= self._limit_us and not window.generator
        self.steps.append({"rate": self.rate_per_s, **window._asdict(), "holds": holds})
        if window.generator:
            self.stopped = window.generator
            return None
        if not holds and not self._again:
            self._again = True
            return self.rate_per_s
        confirmed, self._again = self._again, False
        if holds:
            if confirmed and self.rate_per_s == self.best_per_s:
                return None
            self._kept_up.append(self.rate_per_s)
            self.best_per_s = self.rate_per_s
        else:
            self._failed_per_s = self.rate_per_s
            self._kept_up = [rate for rate in self._kept_up if rate < self.rate_per_s]
            self.best_per_s = max(self._kept_up, default=0.0)
        return self._choose()

    def _choose(self) -> float | None:
        if self._failed_per_s is None:
            self.rate_per_s = min(MOST_PER_S, self.rate_per_s * 2)
        elif self._failed_per_s - self.best_per_s > self._failed_per_s / 10:
            self.rate_per_s = (self.best_per_s + self._failed_per_s) / 2
        elif self.best_per_s:
            self.rate_per_s, self._again = self.best_per_s, True
        return self.rate_per_s if self.rate_per_s >= self._least_per_s else None


class SpikeShape(LoadTestShape):
    """A tenth of the users, all of them in the middle third, a tenth again."""

    abstract = True  # never picked by itself

    def __init__(self, users: int, duration_s: float) -> None:
        super().__init__()
        self._users, self._duration_s = users, duration_s

    def tick(self) -> tuple[int, float] | None:
        third = self.get_run_time() / self._duration_s * 3
        if third >= 3:
            return None
        return (self._users if 1 <= third < 2 else max(1, self._users // 10)), 100.0


class SearchShape(LoadTestShape):
    """A RateSearch in steps: once one has settled, what came before is forgotten, so that a run ends with its last."""

    abstract = True

    def __init__(self, master: Master) -> None:
        super().__init__()
        self._master = master
        self.reset_time()

    def reset_time(self) -> None:
        """A new run, of which a master tells twice."""
        super().reset_time()
        options = self._master.options
        self.search = RateSearch(options.slo_p99_us, start_per_s=options.rate)
        self._step_began_s, self._settled = 0.0, False

    def tick(self) -> tuple[int, float] | None:
        in_step_s = self.get_run_time() - self._step_began_s
        if in_step_s >= SETTLE_S and not self._settled:
            self._master.reset()
            self._settled = True
        if in_step_s >= STEP_S:
            rate_per_s = self.search.next(self._master.window())
            if rate_per_s is None:
                return None
            self._master.set_rate(rate_per_s)
            self._step_began_s, self._settled = self.get_run_time(), False
        return self._master.options.num_users or USERS, 100.0
