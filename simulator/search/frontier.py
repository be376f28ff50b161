"""What a search has before it and behind it: branches by cost, and states reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import Judgement
from podrace.simulator.search.schedule import Decision
from podrace.simulator.world.trace import Ends


@dataclass(frozen=True)
class Bounds:
    """How far the search goes. `budget_s` is in seconds of wall clock; `reduce=False` runs equivalent orders too."""

    preemptions: int = 2
    faults: int = 1
    budget_s: float = 300.0
    reduce: bool = True


@dataclass(frozen=True)
class Counterexample:
    """A violated schedule and what it shows. `taken`: for each decision, the step that it was about."""

    decisions: tuple[Decision, ...]
    taken: tuple[tuple[Any, ...], ...]
    retries: int
    faults: int
    preemptions: int
    events: tuple[Event, ...]
    judgement: Judgement
    deciding: int | None = None
    """The event from which on nothing else had to go wrong."""


@dataclass(slots=True)
class Branch:
    """A way not yet gone: the decisions up to it and what they were about, and what it would lead to."""

    prefix: tuple[Decision, ...]
    taken: tuple[tuple[Any, ...], ...]
    decision: Decision
    place: tuple[int, int]
    event: int
    begins: bool
    """What tells the state that it would lead to (see trace.state_after)."""
    hand: str
    """The actor that would be in hand then, unless it waits."""
    last_pod: str
    """The pod whose step it would be; empty for a strike on a pod or the clock."""


@dataclass
class Frontier:
    """One setting of the client's retries."""

    heap: list[tuple[int, int, int, Branch | None]] = field(default_factory=list)
    visited: dict[tuple[int, str, str], list[tuple[int, int]]] = field(default_factory=dict)
    ends: Ends = field(default_factory=dict)
    sequence: int = 0
    run: int = 0
    pruned: int = 0
    best: Counterexample | None = None
    last_run: int | None = None
    """Where the search stops that has found the worst."""

    def push(self, faults: int, preemptions: int, branch: Branch | None) -> None:
        self.sequence += 1
        heappush(self.heap, (faults, preemptions, self.sequence, branch))

    def pop(self) -> tuple[int, int, Branch | None]:
        faults, preemptions, _, branch = heappop(self.heap)
        return faults, preemptions, branch

    def is_known(self, state: int, actor: str, last_pod: str, cost: tuple[int, int], *, note: bool) -> bool:
        """Whether this state was reached at no higher cost; with `note`, it counts as reached from now on.

        A state is the steps taken, up to the order of those that commute, with the actor that switching away from
        would preempt, and the pod that a fault may strike now.
        """
        costs = self.visited.get((state, actor, last_pod))
        if costs is None:
            if note:
                self.visited[state, actor, last_pod] = [cost]
            return False
        for faults, preemptions in costs:
            if faults <= cost[0] and preemptions <= cost[1]:
                return True
        if note:
            costs.append(cost)
        return False
