"""Search through all schedules of a scenario within bounds, cheapest first: fewest faults, then fewest preemptions.

Iterative context bounding (Musuvathi and Qadeer, PLDI 2007): a preemption is a switch away from an
actor that could go on; order costs nothing where an actor waits or ends. What is cheapest is tried
first, so the first counterexample is a smallest one.

Equivalent orders are not run twice. A branch is skipped before it is run where the same steps, up to
the order of those that commute, have been reached at no higher cost with the same actor in hand: the
state is the same, and so is all that can follow within the bounds. And no other pod is switched to
while the pod in hand shares no key with any and waits for no call of theirs, nor they for its.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import Event
from podrace.simulator.judge.checks import HOLDS, INCONCLUSIVE, KINDS, VIOLATED, Judgement, judge
from podrace.simulator.scenarios.catalogue import Add, Scenario
from podrace.simulator.scenarios.faults import KILL, PAUSE
from podrace.simulator.search.frontier import Bounds, Branch, Counterexample, Search
from podrace.simulator.search.heap import Changes, TangledError
from podrace.simulator.search.play import Play
from podrace.simulator.search.schedule import Decision, Stop, follow
from podrace.simulator.world.footprints import ALL_OF_IT, MASK, NOTHING, in_memory
from podrace.simulator.world.gates import GO, Step

MORE_RUNS_FOR_FEWER_STEPS = 200
"""After a counterexample, so many further runs at the same cost look for one with fewer steps."""


@dataclass(frozen=True)
class Exploration:
    """What a search found. `complete`: the whole bounded space was covered."""

    verdict: str
    counterexample: Counterexample | None
    judgement: Judgement
    """Of the counterexample; where there is none, of the first schedule."""
    run: int
    pruned: int
    complete: bool
    struck: int
    """Schedules that a fault struck."""
    elapsed_s: float
    outcomes: frozenset[str]
    """Every outcome seen, as the kinds of what went wrong."""
    applies: bool = True
    """False where the scenario needs a fault and none could strike."""

    @property
    def words(self) -> str:
        """The worst outcome in the words of the failure modes; `–` where the row does not apply."""
        if not self.applies:
            return "–"
        if self.verdict == INCONCLUSIVE:
            return INCONCLUSIVE
        return ", ".join(self.counterexample.judgement.kinds) if self.counterexample else "ok"


class Explorer:
    """Explores one scenario. `play(retries)` makes a fresh Play; `finish(play)` clears up behind it."""

    def __init__(
        self,
        scenario: Scenario,
        play: Callable[[int], Play],
        finish: Callable[[Play], None],
        bounds: Bounds,
        *,
        progress: Callable[[int], None] = lambda run: None,
        worst: str = KINDS[0],
    ) -> None:
        self._scenario = scenario
        self._make_play = play
        self._finish = finish
        self._bounds = bounds
        self._progress = progress
        self._worst = worst
        self._began_s = time.monotonic()
        self._best: Counterexample | None = None
        self._first: Judgement | None = None
        self._outcomes: set[str] = set()
        self._run = self._pruned = self._struck = self._accepted = 0

    def explore(self) -> Exploration:
        """Search until something of the worst kind is found, all is covered, or the budget is spent.

        Raises TargetError where the target cannot be judged.
        """
        complete = True
        for retries in self._scenario.retries:
            complete &= self._search(retries)
        best = self._best
        if best is not None:
            self._repeat(best.decisions, best.retries, best.events)
        assert self._first is not None
        if not self._accepted and any(isinstance(c, Add) for line in self._scenario.lines.values() for c in line):
            raise TargetError("the target accepts no message in any schedule: there is nothing to judge")
        judgement = best.judgement if best else self._first
        verdict = VIOLATED if best else HOLDS if complete else INCONCLUSIVE
        return Exploration(
            verdict=verdict,
            counterexample=best,
            judgement=judgement,
            run=self._run,
            pruned=self._pruned,
            complete=complete,
            struck=self._struck,
            elapsed_s=time.monotonic() - self._began_s,
            outcomes=frozenset(self._outcomes),
            applies=bool(self._struck) or not complete or not self._scenario.needs_fault,
        )

    def _search(self, retries: int, changes: Changes | None = None) -> bool:
        """All branches of one setting of the client's retries. Returns whether the whole space was covered."""
        search = Search(self._bounds, any(fault.name == PAUSE for fault in self._scenario.faults))
        search.changes = changes or Changes()
        search.push(0, 0, None)
        try:
            self._go_through(search, retries)
        except TangledError:
            return self._search(retries, Changes(always=True))
        finally:
            self._run, self._pruned = self._run + search.run, self._pruned + search.pruned
            self._best = _worse(self._best, search.best)
        return not search.heap

    def _go_through(self, search: Search, retries: int) -> None:
        while search.heap and not self._enough(search):
            entry = heappop(search.heap)
            faults, preemptions, _, branch = entry
            if self._bounds.reduce and branch is not None:
                if search.reached(branch, (faults, preemptions)):
                    search.pruned += 1
                    continue
                if search.skip_apart(entry):
                    continue
            self._run_branch(search, branch, faults, preemptions, retries)
            self._progress(self._run + search.run)

    def _enough(self, search: Search) -> bool:
        """Whether the budget is spent, or the worst was found and nothing as cheap could have fewer steps."""
        best = search.best
        if best is not None and self._worst in best.judgement.kinds:
            search.last_run = search.last_run or search.run + MORE_RUNS_FOR_FEWER_STEPS
            if search.heap[0][:2] != (best.faults, best.preemptions) or search.run > search.last_run:
                return True
        return time.monotonic() - self._began_s > self._bounds.budget_s

    def _run_branch(self, search: Search, branch: Branch | None, faults: int, preemptions: int, retries: int) -> None:
        search.run += 1
        play = self._make_play(retries)
        prefix = (*branch.prefix, branch.decision) if branch else ()
        if self._bounds.reduce:
            play.changes, play.watch_from = search.changes, len(prefix) - 1
        taken = branch.taken if branch else ()
        chooser = _Chooser(search, self._scenario, prefix, taken, (faults, preemptions))
        try:
            events = play.run(chooser)
        except Stop:
            search.pruned += 1
            return
        finally:
            self._finish(play)
        search.learn(play.footprints)
        first_struck = play.struck and not self._struck
        if first_struck or search.run & (search.run - 1) == 0:  # the 1st, 2nd, 4th, 8th, … run
            self._repeat(tuple(play.decisions), retries, events)
        judgement = judge(events)
        self._first = self._first or judgement
        self._accepted += judgement.accepted
        self._struck += play.struck > 0
        if self._scenario.needs_fault and not play.struck:
            return
        self._outcomes.add(", ".join(judgement.kinds))
        if judgement.findings:
            found = Counterexample(
                tuple(play.decisions), retries, faults, preemptions, tuple(events), judgement, play.deciding_step()
            )
            search.best = _worse(search.best, found)

    def _repeat(self, decisions: Sequence[Decision], retries: int, events: Sequence[Event]) -> None:
        """Run a schedule again: what differs is the target's own doing, and no verdict can rest on it."""
        play = self._make_play(retries)
        try:
            again = play.run(follow(decisions))
        finally:
            self._finish(play)
        for number, (first, second) in enumerate(zip(events, again, strict=False)):
            if first != second:
                raise _nondeterminism(number, first, second)
        if len(events) != len(again):
            raise _nondeterminism(min(len(events), len(again)), len(events), len(again))


def _worse(one: Counterexample | None, other: Counterexample | None) -> Counterexample | None:
    """The better find: the worst kind first, then fewest faults, fewest preemptions, fewest steps, found first."""

    def rank(found: Counterexample) -> tuple[int, int, int, int]:
        return KINDS.index(found.judgement.kinds[0]), found.faults, found.preemptions, len(found.decisions)

    if one is None or other is None:
        return one or other
    return other if rank(other) < rank(one) else one


class _Chooser:
    """Follows a prefix, then takes the default everywhere and pushes what else could be done."""

    def __init__(
        self,
        search: Search,
        scenario: Scenario,
        prefix: tuple[Decision, ...],
        taken: tuple[tuple[str, str, tuple[Any, ...]], ...],
        cost: tuple[int, int],
    ) -> None:
        self._search = search
        self._scenario = scenario
        self._prefix = prefix
        self._taken = taken
        self._cost = cost

    def __call__(self, play: Play, steps: list[Step], default: Step) -> Decision:
        position = len(play.decisions)
        if position < len(self._prefix):
            if 0 < position <= len(self._taken) and play.taken[position - 1] != self._taken[position - 1]:
                raise _nondeterminism(position, self._taken[position - 1], play.taken[position - 1])
            return self._prefix[position]
        search = self._search
        if search.bounds.reduce:
            hand = search.in_hand(play.last, play.last_step.pod if play.last_step else "")
            if search.seen(play.trace.value, hand, self._cost, note=True):
                raise Stop
        self._push_others(play, steps, default)
        return default.actor, GO

    def _push_others(self, play: Play, steps: list[Step], default: Step) -> None:
        faults, preemptions = self._cost
        bounds = self._search.bounds
        in_hand = default.pod
        for step in steps:
            cost = preemptions + play.preempts(step.actor)
            if cost > bounds.preemptions:
                continue
            due = step.kind != "timer" or (default.kind == "timer" and step.args[0] == default.args[0])
            if step is not default and due:
                self._push(play, step, GO, faults, cost, in_hand)
            if faults < bounds.faults and step.kind != "op":
                footprint = play.footprint(step)
                for fault in self._scenario.faults:
                    for action in fault.on_step(step, footprint, play):
                        self._push(play, step, action, faults + 1, cost, in_hand)
        if faults < bounds.faults and play.last_step is not None:
            for fault in self._scenario.faults:
                for action in fault.on_pod(play.last_step, play):
                    self._push_strike(play, action, faults + 1, preemptions, in_hand)

    def _push(self, play: Play, step: Step, action: str, faults: int, preemptions: int, in_hand: str) -> None:
        footprint, pod = play.footprint(step, action), step.pod
        event, changed = (
            play.trace.event(step.actor, action, in_memory(pod, footprint, changes=changes))
            for changes in (False, True)
        )
        self._branch(play, (step.actor, action), (event, changed), faults, preemptions, in_hand, pod)

    def _push_strike(self, play: Play, action: str, faults: int, preemptions: int, in_hand: str) -> None:
        assert play.last_step is not None
        pod = play.last_step.pod
        footprint = in_memory(pod, NOTHING, changes=True) if action == KILL else ALL_OF_IT
        event = play.trace.event(pod, action, footprint)
        self._search.changes.learn(event, True)
        self._branch(play, (pod, action), (event, event), faults, preemptions, in_hand, "")

    def _branch(
        self,
        play: Play,
        decision: Decision,
        events: tuple[int, int],
        faults: int,
        preemptions: int,
        in_hand: str,
        last_pod: str,
    ) -> None:
        states = ((play.trace.value + events[0]) & MASK, (play.trace.value + events[1]) & MASK)
        decisions, taken = tuple(play.decisions), tuple(play.taken)
        branch = Branch(decisions, taken, decision, events[0], states, in_hand, last_pod)
        self._search.push(faults, preemptions, branch)


def _nondeterminism(position: int, expected: object, got: object) -> TargetError:
    return TargetError(
        f"the target is not deterministic: the same schedule went another way at step {position}: "
        f"expected {_short(expected)}, got {_short(got)}; randomness must come from env.rng, time from env.runtime"
    )


def _short(value: object) -> str:
    from podrace.simulator.history.events import shorten

    return shorten(str(value), 120)
