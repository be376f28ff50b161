"""A finished run as checks see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import Finding

OPEN = "open"
"""The type of a call that never ended."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that a client made. `began` and `ended` are its places in the history, `ended` None for an open one.

    `type` is `ok`, `fail` (definitely not done), `info` (nobody can know) or `open`. `value` is what it returned,
    `error` what it raised, as text.
    """

    name: str
    actor: str
    method: str
    args: tuple[Any, ...]
    began: int
    ended: int | None = None
    type: str = OPEN
    value: Any = None
    error: str = ""

    @property
    def pod(self) -> str:
        return self.actor.partition(".")[0]

    def before(self, other: CallRecord) -> bool:
        """Whether it had ended before the other began."""
        return self.ended is not None and self.ended < other.began


@dataclass(frozen=True)
class Left:
    """A key that was there at the end: its name without the run's prefix, its value, and how long it has to live."""

    key: str
    value: Any
    left_s: float | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    `history`: its events, as they happened (see history.events). Orders that differ only in steps that commute are run
    once. So a check may rely on the order of calls' ends and begins (those of the workload's `real_time`, else all),
    and on that of passing time with these and with calls of services; not on that of other steps that share nothing.
    `calls`: what clients called, rest included.
    `services`: by name, with what they have recorded. `struck`: how many faults struck. `waits`: for each call
    that can never return, who waits for what. `rested_s`: when on the run's clock it began to come
    to rest.
    """

    history: Sequence[Event]
    calls: Sequence[CallRecord]
    services: Mapping[str, Any]
    struck: int
    rested_s: float
    waits: Mapping[str, str]
    _left: Callable[[], Sequence[Left]] = field(repr=False)
    notes: dict[str, Any] = field(default_factory=dict, repr=False)
    """A cache for what a workload has computed from the run."""

    @cached_property
    def left(self) -> Sequence[Left]:
        """The keys that are left, in order."""
        return self._left()

    @property
    def redis(self) -> Mapping[str, Any]:
        """What is left in Redis: strings as text, lists as lists, sets as sets, hashes as dicts, by key."""
        return {one.key: one.value for one in self.left}

    def steps(self, kind: str, name: str = "") -> Iterable[tuple[int, Event]]:
        """The steps of a kind with their places; `name` is a service, or a command in upper case."""
        for place, event in enumerate(self.history):
            if event["type"] == "step" and event["step"].kind == kind:
                first = str(event["step"].args[0])
                if not name or name == (first.upper() if kind == "redis" else first):
                    yield place, event


Check = Callable[[Run], Iterable[Finding]]
"""A pure function from a finished run to its findings."""
