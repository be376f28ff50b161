"""What a search has before it and behind it: branches by cost, states reached, and what may be left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappush
from typing import Any

from podrace.simulator.history.events import Event
from podrace.simulator.judge.checks import Judgement
from podrace.simulator.scenarios.faults import KILL, PAUSE
from podrace.simulator.search.heap import Changes
from podrace.simulator.search.schedule import Decision
from podrace.simulator.world.footprints import EVERYTHING
from podrace.simulator.world.gates import GO


@dataclass(frozen=True)
class Bounds:
    """How far the search goes. `budget_s` is in seconds of wall clock; `reduce=False` runs equivalent orders too."""

    preemptions: int = 2
    faults: int = 1
    budget_s: float = 60.0
    reduce: bool = True


@dataclass(frozen=True)
class Counterexample:
    """A violated schedule and what it shows."""

    decisions: tuple[Decision, ...]
    retries: int
    faults: int
    preemptions: int
    events: tuple[Event, ...]
    judgement: Judgement
    deciding: int | None = None
    """The event from which on nothing else had to go wrong."""


@dataclass
class Branch:
    """A way not yet gone: the decisions up to it, what it would cost, and where it starts from."""

    prefix: tuple[Decision, ...]
    taken: tuple[tuple[str, str, tuple[Any, ...]], ...]
    decision: Decision
    event: int
    states: tuple[int, int]
    """What it would lead to: where the step leaves its pod's memory as it is, and where it does not."""
    in_hand: str
    last_pod: str
    """Whose step it would be; empty for a strike."""


@dataclass
class Search:
    """One setting of the client's retries."""

    bounds: Bounds
    pauses: bool = False
    """Whether the scenario allows a pause: it touches keys of every pod."""
    heap: list[tuple[int, int, int, Branch | None]] = field(default_factory=list)
    visited: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=dict)
    apart: dict[tuple[str, str], list[tuple[int, int, int, Branch | None]]] = field(default_factory=dict)
    footprints: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    sequence: int = 0
    run: int = 0
    pruned: int = 0
    best: Counterexample | None = None
    last_run: int | None = None
    """Where the search stops that has found the worst."""

    def push(self, faults: int, preemptions: int, branch: Branch | None) -> None:
        self.sequence += 1
        heappush(self.heap, (faults, preemptions, self.sequence, branch))

    def in_hand(self, actor: str | None, last_pod: str) -> str:
        """What a state is remembered by besides itself: who is in hand, or who acted last where that can be paused."""
        return actor or (f"after {last_pod}" if self.pauses else "")

    def seen(self, state: int, last: str, cost: tuple[int, int], *, note: bool) -> bool:
        """Whether this state was reached at no higher cost; with `note`, it counts as reached from now on."""
        costs = self.visited.get((state, last))
        if costs is None:
            if note:
                self.visited[state, last] = [cost]
            return False
        for faults, preemptions in costs:
            if faults <= cost[0] and preemptions <= cost[1]:
                return True
        if note:
            costs.append(cost)
        return False

    def reached(self, branch: Branch, cost: tuple[int, int]) -> bool:
        """Whether what a branch would lead to was reached at no higher cost; False where that is not known yet."""
        changes = self.changes.known(branch.event)
        if changes is None:
            return False
        hands = (branch.decision[0], self.in_hand(None, branch.last_pod))
        return any(self.seen(branch.states[changes], hand, cost, note=False) for hand in hands)

    def learn(self, footprints: dict[str, tuple[set[str], set[str]]]) -> None:
        """Remember what each pod has touched; branches skipped because two pods shared nothing may come back."""
        grown = False
        for pod, (reads, writes) in footprints.items():
            known_reads, known_writes = self.footprints.setdefault(pod, (set(), set()))
            if not (reads <= known_reads and writes <= known_writes):
                known_reads |= reads
                known_writes |= writes
                grown = True
        if grown and self.apart:
            for pods in [pods for pods in self.apart if not self._alone(pods[0])]:
                for entry in self.apart.pop(pods):
                    heappush(self.heap, entry)
                    self.pruned -= 1

    def skip_apart(self, entry: tuple[int, int, int, Branch | None]) -> bool:
        """Whether to leave a branch that switches away from, or to, a pod that shares nothing with any other."""
        branch = entry[3]
        if branch is None or self.pauses or branch.decision[1] in (KILL, PAUSE):
            return False  # what expires in a pause may be any pod's
        pod = branch.decision[0].partition(".")[0]
        if pod == branch.in_hand or branch.decision[1] != GO:
            return False
        for alone in (branch.in_hand, pod):
            if self._alone(alone):
                self.apart.setdefault((alone, pod), []).append(entry)
                self.pruned += 1
                return True
        return False

    def _alone(self, pod: str) -> bool:
        reads, writes = self.footprints.get(pod, ((), ()))
        mine = {*reads, *writes}
        if EVERYTHING in mine:
            return False
        for other, (other_reads, other_writes) in self.footprints.items():
            if other != pod and (
                EVERYTHING in other_reads
                or EVERYTHING in other_writes
                or not mine.isdisjoint(other_writes)
                or not other_reads.isdisjoint(writes)
            ):
                return False
        return True
