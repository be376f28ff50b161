"""How well the load generator itself was doing: its own delays are reported, and never charged to the server.

`Health` measures one process; `GeneratorHealth` adds up all of them, and says whether that explains a breach.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
import psutil

from podrace.loadtests.latency import HIGHEST_US, SUMMARY, new_histogram, percentiles_us

PROBE_S = 0.01
BUSY_SHARE = 0.9
"""Of one core: a generator that uses it, or waits for it, for so much of the time cannot be punctual."""
WAITED_SHARE = 0.25
"""Of the time: a generator that waits for a core so long is on a machine that slows down the servers too."""
STOLEN_SHARE = 0.05


class Health:
    """One process, from `start` on; `take` returns what came since it was last called."""

    def __init__(self) -> None:
        self.lags_us: list[int] = []
        self.begun = 0
        self.missed = 0
        self.stopped_s = 0.0
        """When the users were told to stop: a task that was due by then and did not begin counts as never begun."""
        self._pauses_us: list[int] = []
        self._pause_began_s = 0.0
        self._probe: Any = None
        self._marks = (0.0,) * 5

    def start(self) -> None:
        """Keep the collector from walking what is alive now again and again, and begin to measure."""
        gc.collect()
        gc.freeze()
        self.stop()
        self.take()
        self.stopped_s = 0.0
        gc.callbacks.append(self._on_collection)
        self._probe = gevent.spawn(self._probe_forever)

    def stop(self) -> None:
        if self._probe is not None:
            self._probe.kill()
            self._probe = None
            gc.callbacks.remove(self._on_collection)

    def take(self) -> dict[str, Any]:
        """What came since the last call, in a form that Locust's messages can carry."""
        machine = psutil.cpu_times()
        marks = (time.perf_counter(), time.process_time(), _waited_s(), getattr(machine, "steal", 0.0), sum(machine))
        wall_s, cpu_s, waited_s, stolen_s, total_s = (
            now - before for now, before in zip(marks, self._marks, strict=True)
        )
        interval = {
            "lags_us": [*map(list, Counter(self.lags_us).items())],
            "pauses_us": self._pauses_us,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "waited_s": waited_s,
            "stolen": stolen_s / total_s if total_s else 0.0,
            "begun": self.begun,
            "missed": self.missed,
        }
        self.lags_us, self._pauses_us, self._marks = [], [], marks
        self.begun = self.missed = 0
        return interval

    def _on_collection(self, phase: str, info: Any) -> None:
        if phase == "start":
            self._pause_began_s = time.perf_counter()
        else:
            self._pauses_us.append(int((time.perf_counter() - self._pause_began_s) * 1e6))

    def _probe_forever(self) -> None:
        """Sleep, and measure how late this greenlet wakes up: where no user is ever idle, only this can."""
        while True:
            due_s = time.perf_counter() + PROBE_S
            gevent.sleep(PROBE_S)
            self.lags_us.append(max(0, int((time.perf_counter() - due_s) * 1e6)))


class GeneratorHealth:
    """The health of all processes, added up."""

    def __init__(self) -> None:
        self._lags = new_histogram()
        self._pauses_us: list[int] = []
        self._seconds: dict[str, Counter[str]] = {}
        self._stolen: list[float] = []
        self.begun = self.missed = 0

    def add(self, worker: str, interval: Mapping[str, Any]) -> None:
        for lag_us, count in interval["lags_us"]:
            self._lags.record_value(min(lag_us, HIGHEST_US), count)
        self._pauses_us += interval["pauses_us"]
        seconds = self._seconds.setdefault(worker, Counter())
        seconds.update({name: interval[name] for name in ("cpu_s", "waited_s", "wall_s")})
        self._stolen.append(interval["stolen"])
        self.begun += interval["begun"]
        self.missed += interval["missed"]

    @property
    def core_shares(self) -> tuple[float, float]:
        """For how much of the time the busiest process had a core, and for how much it waited for one."""
        shares = [(one["cpu_s"] / one["wall_s"], one["waited_s"] / one["wall_s"])
                  for one in self._seconds.values() if one["wall_s"]]  # fmt: skip
        return max(shares, key=sum, default=(0.0, 0.0))

    @property
    def stolen_share(self) -> float:
        return sum(self._stolen) / len(self._stolen) if self._stolen else 0.0

    @property
    def begun_per_s(self) -> float:
        """While users run: what comes after them is measured too."""
        return _rate(self.begun, max((one["wall_s"] for one in self._seconds.values()), default=0.0))

    def lag_us(self, percentile: float) -> int:
        return percentiles_us(self._lags, [percentile])[0]

    def busy(self) -> str:
        """Why the processes could not be punctual at all; empty where they could."""
        used, waited = self.core_shares
        if used + waited >= BUSY_SHARE or waited >= WAITED_SHARE:
            said = f"it used {used:.0%} of a core, and waited for one for {waited:.0%} of the time"
            return f"the generator is the limit: {said}; add cores and processes, or lower --rate"
        if self.stolen_share >= STOLEN_SHARE:
            return f"the machine was slowed down from outside: {self.stolen_share:.0%} of its time was stolen"
        return ""

    def explains(self, excess_us: float, percentile: float) -> str:
        """Why a latency past its limit by `excess_us` may be the generator's own; empty where it cannot be."""
        if reason := self.busy():
            return reason
        lag_us = self.lag_us(percentile)
        if lag_us < excess_us:
            return ""
        pause_us = max(self._pauses_us, default=0)
        collected = f", garbage collection for up to {pause_us} µs" if pause_us >= excess_us else ""
        return f"the generator itself woke up {lag_us} µs late at that percentile{collected}"

    def document(self, duration_s: float) -> dict[str, Any]:
        """What result.json, the table and the tab show. Rates are of tasks; a closed loop intends none."""
        values = percentiles_us(self._lags, [*SUMMARY.values()])
        intended = self.begun + self.missed
        tasks: dict[str, float] = {"intended": intended, "begun": self.begun, "never_begun": self.missed}
        tasks |= {"intended_per_s": _rate(intended, duration_s), "begun_per_s": _rate(self.begun, duration_s)}
        document = {
            "wake_lag": dict(zip(SUMMARY, values, strict=True)) | {"max_us": int(self._lags.get_max_value())},
            "collector": {"pauses": len(self._pauses_us), "max_us": max(self._pauses_us, default=0)},
            "cpu_share": round(self.core_shares[0], 3),
            "waited_share": round(self.core_shares[1], 3),
            "stolen_share": round(self.stolen_share, 4),
            "tasks": tasks,
        }
        return document | {"says": _lines(document)}


def _rate(tasks: int, seconds: float) -> float:
    return round(tasks / seconds, 1) if seconds else 0.0


def _lines(health: Mapping[str, Any]) -> Sequence[str]:
    lag, tasks = health["wake_lag"], health["tasks"]
    rate = f"{tasks['intended_per_s']:g} tasks/s intended, {tasks['begun_per_s']:g} begun"
    return (
        f"generator: woke up late by p50 {lag['p50_us']}, p99 {lag['p99_us']}, at most {lag['max_us']} µs; "
        f"{health['collector']['pauses']} collections, at most {health['collector']['max_us']} µs; "
        f"{health['cpu_share']:.0%} of a core, waited for it {health['waited_share']:.0%}; "
        f"{health['stolen_share']:.1%} stolen",
        "generator: " + (f"{rate}, {tasks['never_begun']} never begun" if tasks["intended"] else "as fast as it can"),
    )


def _waited_s() -> float:
    """For how long this process could have run and others did; 0 where no /proc tells it."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
