"""What a search has before it and behind it: branches by cost, and states reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import Judgement
from podrace.simulator.search.schedule import Decision, Known
from podrace.simulator.world.steps import Step
from podrace.simulator.world.trace import Before, Ends, state_after

Cost = tuple[int, int]
"""Faults and preemptions."""

Key = tuple[int, str, str]
"""What a search knows a state by: the steps taken, up to the order of those that commute, with the actor that
switching away from would preempt, and the pod that a fault may strike now."""


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
    taken: tuple[Step, ...]
    retries: int
    faults: int
    preemptions: int
    events: tuple[Event, ...]
    judgement: Judgement
    deciding: int | None = None
    """The deciding event: nothing else had to go wrong after it."""


class Course(NamedTuple):
    """The course of one run: its decisions, the steps that they were about, and what is known of each."""

    decisions: tuple[Decision, ...]
    taken: tuple[Step, ...]
    known: tuple[Known | None, ...] = ()
    scripts: int = 0
    """How many of the target's scripts were known then: the footprints rest on them."""


class Other(NamedTuple):
    """What else could have been done at a place of a run."""

    decision: Decision
    event: int
    begins: bool
    """What tells, with what was before, the state that it would lead to (see trace.state_after)."""
    hand: str
    """The actor that would be running then, unless it waits."""
    last_pod: str
    """The pod that a fault might strike then; empty if no fault can."""
    cost: Cost


class Branch(NamedTuple):
    """A way that was not taken yet: it leaves the course of a run after this many decisions."""

    course: Course
    position: int
    before: Before
    other: Other


def until_it_leaves(branch: Branch) -> Course:
    """The course that a branch leaves, as far as a run of the branch follows it."""
    decisions, taken, known, scripts = branch.course
    return Course(decisions[: branch.position], taken[: branch.position], known[: branch.position], scripts)


class Visited:
    """The states reached, and at what cost. What is noted is also kept in order, for those that follow."""

    def __init__(self) -> None:
        self._costs: dict[Key, tuple[Cost, ...]] = {}
        self.noted: list[tuple[Key, Cost]] = []

    def is_known(self, key: Key, cost: Cost) -> bool:
        """Whether this state was reached at no higher cost."""
        return any(faults <= cost[0] and preemptions <= cost[1] for faults, preemptions in self._costs.get(key, ()))

    def note(self, key: Key, cost: Cost) -> None:
        """Let the state count as reached at this cost."""
        self._costs[key] = (*self._costs.get(key, ()), cost)
        self.noted.append((key, cost))


@dataclass
class Frontier:
    """One setting of the client's retries. `reduce`: equivalent orders are left out."""

    reduce: bool = True
    levels: dict[Cost, deque[Branch | None]] = field(default_factory=dict)
    """The branches by cost, in the order in which they were found."""
    visited: Visited = field(default_factory=Visited)
    ends: Ends = field(default_factory=dict)
    run: int = 0
    pruned: int = 0
    best: Counterexample | None = None
    last_run: int | None = None
    """Where the search stops once it has found the worst."""

    def push(self, cost: Cost, branch: Branch | None) -> None:
        level = self.levels.get(cost)
        if level is None:
            level = self.levels[cost] = deque()
        level.append(branch)

    def cheapest(self) -> Cost:
        return min(self.levels)

    def pop(self) -> tuple[Cost, Branch | None]:
        cost = self.cheapest()
        level = self.levels[cost]
        branch = level.popleft()
        if not level:
            del self.levels[cost]
        return cost, branch

    def put_back(self, cost: Cost, branch: Branch | None) -> None:
        self.levels.setdefault(cost, deque()).appendleft(branch)

    def leads_to(self, branch: Branch) -> Key | None:
        """The state that a branch leads to; None where that is not known yet, or does not matter."""
        other = branch.other
        state = state_after(branch.before, other.event, other.begins, self.ends) if self.reduce else None
        return None if state is None else (state, other.hand, other.last_pod)

    def is_known(self, branch: Branch) -> bool:
        """Whether what a branch would lead to was reached at no higher cost; False where that is not known yet."""
        key = self.leads_to(branch)
        if key is None:
            return False
        state, hand, pod = key
        hands = (hand, "")  # with nobody in hand all that follows costs as little or less
        return any(self.visited.is_known((state, one, pod), branch.other.cost) for one in hands)

    def next_ones(self) -> Iterator[tuple[Cost, Branch]]:
        """The branches in the order in which they come, as far as it is known."""
        for cost in sorted(self.levels):
            for branch in self.levels[cost]:
                if branch is not None:
                    yield cost, branch
