"""Services for searches that are split over processes; each tests one thing that a helper process may meet."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from planted.small import Keys
from podrace.simulator.scenarios.faults import Kill
from podrace.simulator.scenarios.model import Call, Scenario, Workload
from podrace.simulator.target import PodEnv

RACE = Scenario(
    "race",
    {pod: (Call(f"{pod}1", "increment", ("n",)), Call(f"{pod}2", "increment", (pod,))) for pod in "AB"},
    workload=Workload(keeps=["*"]),
    faults=(Kill(pods=frozenset("A")),),
)
"""Each of two pods increments a shared key and a key of its own."""


class DependsOnItsProcess(Keys):
    """Behaves differently in a helper process, as code does that depends on the hashes of strings."""

    def increment(self, name: str) -> int:
        if multiprocessing.parent_process() is not None:
            self.env.redis.get(self.key("process"))
        return super().increment(name)


class OtherValuesInItsProcess(Keys):
    def increment(self, name: str) -> int:
        where = "there" if multiprocessing.parent_process() is not None else "here"
        self.env.redis.set(self.key(f"where-{self.env.name}"), where)
        return super().increment(name)


class SleepsInARace(Keys):
    """Sleeps for real, which the harness cannot control, if the other pod has counted meanwhile."""

    def increment(self, name: str) -> int:
        before = int(self.env.redis.get(self.key(name)) or 0)
        if super().increment(name) > before + 1:
            time.sleep(1)
        return before


class PrintsInARace(Keys):
    """Prints if the other pod has counted meanwhile."""

    def increment(self, name: str) -> int:
        before = int(self.env.redis.get(self.key(name)) or 0)
        if super().increment(name) > before + 1:
            print("the other has counted")
        return before


class Remembers(Keys):
    """Keeps state in its module if the other pod has counted meanwhile."""

    def increment(self, name: str) -> int:
        before = int(self.env.redis.get(self.key(name)) or 0)
        if super().increment(name) > before + 1:
            global remembered
            remembered = [name]
        return before


remembered: Any = None


class Scripts(Keys):
    """Always sends one script, and a second one if the other pod has counted meanwhile."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.increase = env.redis.register_script("return redis.call('INCR', KEYS[1])")
        self.unclear = env.redis.register_script("return redis.call('GET', KEYS[1] .. '')")

    def increment(self, name: str) -> int:
        before = int(self.env.redis.get(self.key(name)) or 0)
        after = int(self.increase([self.key(name)]))
        if after > before + 1:
            self.unclear([self.key(name)])
        return after
