"""Search through all schedules of a scenario within bounds, cheapest first: fewest faults, then fewest preemptions.

Iterative context bounding (Musuvathi and Qadeer, PLDI 2007): a preemption is a switch away from an actor that
could go on; order costs nothing where an actor waits or ends. What is cheapest is tried first, so the first
counterexample is a smallest one.

Equivalent orders are not run twice: a branch is skipped where the same steps, up to the order of those that commute,
have been reached at no higher cost with the same actor in hand. The state is the same, and so is all that can
follow within the bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import Event, shorten
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.judge.findings import (
    HOLDS,
    INCONCLUSIVE,
    KINDS,
    NOT_APPLICABLE,
    VIOLATED,
    Judgement,
    by_severity,
)
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.faults import CLOCK, Fault
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search import strikes
from podrace.simulator.search.frontier import Bounds, Branch, Counterexample, Frontier
from podrace.simulator.search.play import Play
from podrace.simulator.search.schedule import Decision, Stop, follow
from podrace.simulator.world.steps import GO, Step, pod_of
from podrace.simulator.world.trace import state_after

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
    elapsed_s: float
    outcomes: frozenset[str]
    """Every outcome seen, as the kinds of what went wrong."""

    @property
    def words(self) -> str:
        """The worst outcome in the words of the failure modes; `–` where no fault had anything to strike."""
        if self.verdict == NOT_APPLICABLE:
            return "–"
        return INCONCLUSIVE if self.verdict == INCONCLUSIVE else self.judgement.words


class Restart(Exception):  # noqa: N818 - it is no error
    """Something was learnt that makes what was explored so far worthless."""


def judge(scenario: Scenario, run: Run) -> Judgement:
    """What one run shows."""
    return Judgement(by_severity(scenario.findings(run)), scenario.workload.counted(run))


class Explorer:
    """Explores one scenario. `play(retries)` makes a fresh Play; `finish(play)` clears up behind it.

    `finish` may raise Restart: what it has found makes all runs so far worthless.
    """

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
        self._strikes_pods = any(type(fault).on_pod is not Fault.on_pod for fault in scenario.faults)
        self._began_s = time.monotonic()
        self._forget()

    def _forget(self) -> None:
        self._best: Counterexample | None = None
        self._first: Judgement | None = None
        self._outcomes: set[str] = set()
        self._errors: dict[str, None] = {}
        self._succeeded = False
        self._run = self._pruned = self._struck = 0

    def explore(self) -> Exploration:
        """Search until something of the worst kind is found, all is covered, or the budget is spent.

        Raises TargetError where the target cannot be judged.
        """
        while True:
            try:
                return self._explore()
            except Restart as again:
                if isinstance(again.__context__, Interrupted):  # it came while a run was being interrupted
                    raise again.__context__ from None
                self._forget()

    def _explore(self) -> Exploration:
        complete = True
        for retries in self._scenario.retries:
            complete &= self._search(retries)
        best = self._best
        if best is not None:
            self._repeat(best.decisions, best.retries, best.events)
        if self._first is None:
            verdict, judgement = INCONCLUSIVE, Judgement(())
        else:
            judgement = best.judgement if best else self._first
            verdict = VIOLATED if best else HOLDS if complete else INCONCLUSIVE
            if verdict == HOLDS and self._scenario.faults and not self._struck:
                verdict = NOT_APPLICABLE
            if not self._succeeded:
                said = "; ".join(self._errors) or "none ever ended"
                raise TargetError(f"no call succeeds in any schedule, there is nothing to judge: {shorten(said, 300)}")
        return Exploration(
            verdict=verdict,
            counterexample=best,
            judgement=judgement,
            run=self._run,
            pruned=self._pruned,
            complete=complete,
            elapsed_s=time.monotonic() - self._began_s,
            outcomes=frozenset(self._outcomes),
        )

    def _search(self, retries: int) -> bool:
        """All branches of one setting of the client's retries. Returns whether the whole space was covered."""
        frontier = Frontier()
        frontier.push(0, 0, None)
        try:
            self._go_through(frontier, retries)
        finally:
            self._run, self._pruned = self._run + frontier.run, self._pruned + frontier.pruned
            self._best = _worse(self._best, frontier.best)
        return not frontier.heap

    def _go_through(self, frontier: Frontier, retries: int) -> None:
        while frontier.heap and not self._enough(frontier):
            entry = faults, preemptions, branch = frontier.pop()
            if self._bounds.reduce and branch is not None and self._is_known(frontier, branch, (faults, preemptions)):
                frontier.pruned += 1
                continue
            if not self._run_branch(frontier, entry, retries):
                frontier.push(*entry)
                return
            self._progress(self._run + frontier.run)

    def _is_known(self, frontier: Frontier, branch: Branch, cost: tuple[int, int]) -> bool:
        """Whether what a branch would lead to was reached at no higher cost; False where that is not known yet."""
        state = state_after(branch.place, branch.event, branch.begins, frontier.ends)
        if state is None:
            return False
        pod = branch.last_pod if self._strikes_pods else ""
        hands = (branch.hand, "")  # with nobody in hand all that follows costs as little or less
        return any(frontier.is_known(state, hand, pod, cost, note=False) for hand in hands)

    def _enough(self, frontier: Frontier) -> bool:
        """Whether the budget is spent, or the worst was found and nothing as cheap could have fewer steps."""
        best = frontier.best
        if best is not None and self._worst in best.judgement.kinds:
            frontier.last_run = frontier.last_run or frontier.run + MORE_RUNS_FOR_FEWER_STEPS
            if frontier.heap[0][:2] != (best.faults, best.preemptions) or frontier.run > frontier.last_run:
                return True
        return self._is_late()

    def _is_late(self) -> bool:
        return time.monotonic() - self._began_s > self._bounds.budget_s

    def _run_branch(self, frontier: Frontier, entry: tuple[int, int, Branch | None], retries: int) -> bool:
        """Run one schedule and judge it. Returns False where the budget ended in the middle of it."""
        faults, preemptions, _ = entry
        frontier.run += 1
        play = self._make_play(retries)
        play.ends = frontier.ends
        chooser = _Chooser(frontier, self._bounds, self._strikes_pods, self._is_late, entry)
        judgement = None
        try:
            run = play.run(chooser)
            judgement = judge(self._scenario, run)
        except Stop:
            if chooser.late:
                frontier.run -= 1
                return False
            frontier.pruned += 1
        finally:
            self._finish(play)
        if judgement is None:
            return True
        first_struck = play.struck and not self._struck
        if first_struck or frontier.run & (frontier.run - 1) == 0:  # the 1st, 2nd, 4th, 8th, … run
            self._repeat(play.decisions, retries, play.events)
        self._first = self._first or judgement
        self._struck += play.struck > 0
        self._succeeded |= self._scenario.workload.is_judgeable(run) or bool(run.waits)
        self._errors.update({call.error: None for call in run.calls if call.error})
        self._outcomes.add(", ".join(judgement.kinds))
        if judgement.findings:
            found = Counterexample(
                tuple(play.decisions),
                tuple(play.taken),
                retries,
                faults,
                preemptions,
                tuple(play.events),
                judgement,
                play.deciding_event,
            )
            frontier.best = _worse(frontier.best, found)
        return True

    def _repeat(self, decisions: Sequence[Decision], retries: int, events: Sequence[Event]) -> None:
        """Run a schedule again: what differs is the target's own doing, and no verdict can rest on it."""
        play = self._make_play(retries)
        try:
            play.run(follow(tuple(decisions)))
        finally:
            self._finish(play)
        for number, (first, second) in enumerate(zip(events, play.events, strict=False)):
            if first != second:
                raise _nondeterminism(number, first, second)
        if len(events) != len(play.events):
            raise _nondeterminism(min(len(events), len(play.events)), len(events), len(play.events))


def _worse(one: Counterexample | None, other: Counterexample | None) -> Counterexample | None:
    """The better find: the worst kind first, then fewest faults, fewest preemptions, fewest steps, found first."""

    def rank(found: Counterexample) -> tuple[int, int, int, int]:
        return KINDS.index(found.judgement.kinds[0]), found.faults, found.preemptions, len(found.decisions)

    if one is None or other is None:
        return one or other
    return other if rank(other) < rank(one) else one


class _Chooser:
    """Follows a branch, then takes the default everywhere and pushes what else could be done."""

    def __init__(
        self,
        frontier: Frontier,
        bounds: Bounds,
        strikes_pods: bool,
        is_late: Callable[[], bool],
        entry: tuple[int, int, Branch | None],
    ) -> None:
        faults, preemptions, branch = entry
        self._frontier = frontier
        self._bounds = bounds
        self._strikes_pods = strikes_pods
        self._is_late = is_late
        self._cost = (faults, preemptions)
        self._prefix = (*branch.prefix, branch.decision) if branch else ()
        self._taken = branch.taken if branch else ()
        self.late = False

    def __call__(self, play: Play, steps: list[Step], default: Step) -> Decision:
        position = len(play.decisions)
        if position < len(self._prefix):
            if 0 < position <= len(self._taken) and play.taken[position - 1] != self._taken[position - 1]:
                raise _nondeterminism(position, self._taken[position - 1], play.taken[position - 1])
            return self._prefix[position]
        if self._is_late():
            self.late = True
            raise Stop
        if self._bounds.reduce:
            pod = play.last_pod if self._strikes_pods else ""
            if self._frontier.is_known(play.trace.value, play.last or "", pod, self._cost, note=True):
                raise Stop
        self._push_others(play, steps, default)
        return Decision(default.actor, GO)

    def _push_others(self, play: Play, steps: list[Step], default: Step) -> None:
        faults, preemptions = self._cost
        bounds = self._bounds
        for step in steps:
            cost = preemptions + play.preemptions(step.actor)
            if cost > bounds.preemptions:
                continue
            if step is not default:
                self._push(play, step, GO, faults, cost)
            if faults < bounds.faults and step.kind != "call":
                self._push_faults(play, step, faults + 1, cost)
        if faults >= bounds.faults:
            return
        for step in play.waits():
            self._push_faults(play, step, faults + 1, preemptions)
        standing = list(dict.fromkeys(step.pod for step in steps))
        for fault in play.scenario.faults:
            if play.last_pod and fault.is_open(play.last_pod, play):
                for action in fault.on_pod(play.last_pod, play):
                    self._push_strike(play, play.last_pod, action, faults + 1, preemptions)
            for action in fault.on_clock(standing, play):
                self._push_strike(play, CLOCK, action, faults + 1, preemptions)

    def _push_faults(self, play: Play, step: Step, faults: int, preemptions: int) -> None:
        footprint = play.footprint(step)
        for fault in play.scenario.faults:
            if fault.is_open(step.pod, play):
                for action in fault.on_step(step, footprint, play):
                    self._push(play, step, action, faults, preemptions)

    def _push(self, play: Play, step: Step, action: str, faults: int, preemptions: int) -> None:
        event = play.event_of(step, action, play.footprint(step, action))
        cost, hands = (faults, preemptions), (step.actor, step.pod)
        self._branch(play, Decision(step.actor, action), event, play.begins(step), cost, hands)

    def _push_strike(self, play: Play, pod: str, action: str, faults: int, preemptions: int) -> None:
        event = strikes.event_of(play, pod, action)
        hand = play.last if play.last and pod_of(play.last) != pod else ""
        self._branch(play, Decision(pod, action), event, False, (faults, preemptions), (hand, ""))

    def _branch(
        self, play: Play, decision: Decision, event: int, begins: bool, cost: tuple[int, int], hands: tuple[str, str]
    ) -> None:
        decisions, taken = tuple(play.decisions), tuple(play.taken)
        self._frontier.push(*cost, Branch(decisions, taken, decision, play.trace.place(), event, begins, *hands))


def _nondeterminism(position: int, expected: object, got: object) -> TargetError:
    return TargetError(
        f"the target is not deterministic: the same schedule went another way at step {position}: "
        f"expected {shorten(str(expected), 120)}, got {shorten(str(got), 120)}; randomness must come from env.rng, "
        "time from env.runtime"
    )
