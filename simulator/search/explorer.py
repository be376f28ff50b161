"""Search through all schedules of a scenario within bounds, cheapest first: fewest faults, then fewest preemptions.

Iterative context bounding (Musuvathi and Qadeer, PLDI 2007): a preemption is a switch away from an actor that
could go on; order costs nothing where an actor waits or ends. What is cheapest is tried first, so the first
counterexample is a smallest one.

Equivalent orders are not run twice: a branch is skipped where the same steps, up to the order of those that commute,
have been reached at no higher cost with the same actor in hand. The state is the same, and so is all that can
follow within the bounds.

Helpers may play branches ahead of their turn (see ahead.py). What they have recorded is taken in at its turn, and only
where the search would have recorded the same: else it plays the branch itself, as without helpers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from podrace.simulator.errors import AnotherWayError, TargetError
from podrace.simulator.history.events import shorten
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, NOT_APPLICABLE, VIOLATED, Judgement
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search.ahead import Ahead
from podrace.simulator.search.frontier import Bounds, Branch, Cost, Counterexample, Frontier
from podrace.simulator.search.play import Play
from podrace.simulator.search.record import Judged, Record, Recorder, Restart, endings

MORE_RUNS_FOR_FEWER_STEPS = 200
"""After a counterexample, this many further runs at the same cost look for one with fewer steps."""


@dataclass(frozen=True)
class Exploration:
    """What a search found. `complete`: the whole bounded space was covered."""

    verdict: str
    counterexample: Counterexample | None
    judgement: Judgement
    """The judgement of the counterexample or, without one, of the first schedule."""
    run: int
    pruned: int
    complete: bool
    elapsed_s: float
    outcomes: frozenset[str]
    """Every outcome seen, as the kinds of what went wrong."""
    endings: Mapping[str, tuple[str, str]]
    """How the calls of the first schedule ended, which is the default one (see record.endings)."""

    @property
    def words(self) -> str:
        """The worst outcome in the words of the failure modes; `–` where no fault had anything to strike."""
        if self.verdict == NOT_APPLICABLE:
            return "–"
        return INCONCLUSIVE if self.verdict == INCONCLUSIVE else self.judgement.words


class Explorer:
    """Explores one scenario. `play` and `finish`: see Recorder."""

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
        self._recorder = Recorder(scenario, play, finish, bounds)
        self._bounds = bounds
        self._progress = progress
        self._worst = worst
        self._ahead: Ahead | None = None
        self._began_s = time.monotonic()
        self.taken = 0
        """How many branches were dealt with, all in all."""
        self._forget()

    def _forget(self) -> None:
        self._best: Counterexample | None = None
        self._first: Judgement | None = None
        self._endings: dict[str, tuple[str, str]] = {}
        self._outcomes: set[str] = set()
        self._errors: dict[str, None] = {}
        self._succeeded = False
        self._run = self._pruned = self._struck = 0

    def explore(self, ahead: Ahead | None = None) -> Exploration:
        """Search until something of the worst kind is found, all is covered, or the budget is spent.

        `ahead`: helpers that play branches ahead of their turn. Raises TargetError where the target cannot be judged.
        """
        self._ahead = ahead
        try:
            while True:
                try:
                    return self._explore()
                except Restart as again:
                    if isinstance(again.__context__, Interrupted):  # it came while a run was being interrupted
                        raise again.__context__ from None
                    self._forget()
                except AnotherWayError:
                    if self._ahead is None or not self._ahead.has_begun:
                        raise
                    self._ahead = None  # what the target does may depend on the process: then it is ours that counts
                    self._forget()
        finally:
            if ahead is not None:
                ahead.close()

    def _explore(self) -> Exploration:
        complete = True
        for retries in self._scenario.retries:
            complete &= self._search(retries)
        best = self._best
        if best is not None:
            self._recorder.repeat(best.decisions, best.retries, best.events)
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
            endings=self._endings,
        )

    def _search(self, retries: int) -> bool:
        """All branches of one setting of the client's retries. Returns whether the whole space was covered."""
        frontier = Frontier(self._bounds.reduce)
        frontier.push((0, 0), None)
        if self._ahead is not None:
            self._ahead.begin(frontier, retries)
        try:
            self._go_through(frontier, retries)
        finally:
            self._run, self._pruned = self._run + frontier.run, self._pruned + frontier.pruned
            self._best = _worse(self._best, frontier.best)
        return not frontier.levels

    def _go_through(self, frontier: Frontier, retries: int) -> None:
        while frontier.levels and not self._enough(frontier):
            cost, branch = frontier.pop()
            self.taken += 1
            if branch is not None and frontier.is_known(branch):
                frontier.pruned += 1
                continue
            if not self._take(frontier, cost, branch, retries):
                frontier.put_back(cost, branch)
                return
            self._progress(self._run + frontier.run)

    def _enough(self, frontier: Frontier) -> bool:
        """Whether the budget is spent, or the worst was found and nothing as cheap could have fewer steps."""
        best = frontier.best
        if best is not None and self._worst in best.judgement.kinds:
            frontier.last_run = frontier.last_run or frontier.run + MORE_RUNS_FOR_FEWER_STEPS
            if frontier.cheapest() != (best.faults, best.preemptions) or frontier.run > frontier.last_run:
                return True
        return self._is_late()

    def _is_late(self) -> bool:
        return time.monotonic() - self._began_s > self._bounds.budget_s

    def _take(self, frontier: Frontier, cost: Cost, branch: Branch | None, retries: int) -> bool:
        """Take in what one schedule brings. Returns False where the budget ended in the middle of it."""
        helped = self._ahead.record(branch) if self._ahead is not None and branch is not None else None
        cut = self._cut(frontier, cost, helped) if helped is not None else 0
        if helped is not None and self._is_fit(frontier, cost, helped, cut):
            record = helped
        else:
            played = self._recorder.record(branch, cost, retries, frontier.visited.is_known, self._is_late)
            if played is None:
                return False
            if helped is not None and not _agree(helped, played):
                raise AnotherWayError("a helper's run went another way")
            record, cut = played, self._cut(frontier, cost, played)
        frontier.run += 1
        self._push(frontier, cost, record, cut)
        if cut < len(record.places) or record.judged is None:
            frontier.pruned += 1
        else:
            self._judge(frontier, cost, retries, record, record.judged)
        return True

    def _cut(self, frontier: Frontier, cost: Cost, record: Record) -> int:
        """The place at which the run would be stopped now; the one after its last if it would not be stopped."""
        if self._bounds.reduce:
            for number, place in enumerate(record.places):
                if frontier.visited.is_known(place.key, cost):
                    return number
        return len(record.places)

    def _is_fit(self, frontier: Frontier, cost: Cost, record: Record, cut: int) -> bool:
        """Whether a helper's record says all that is needed of this run, and rests on no more than what we know."""
        if record.learns or (self._ahead is not None and not self._ahead.is_fit(record)):
            return False
        if cut < len(record.places):
            return True
        judged = record.judged
        if judged is None or self._is_repeated(frontier.run + 1, judged):
            return False
        return not judged.judgement.findings or not _is_better(judged, cost, record, frontier.best)

    def _is_repeated(self, run: int, judged: Judged) -> bool:
        """Whether this run is repeated: the 1st, 2nd, 4th, 8th, … and the first that a fault has struck."""
        return run & (run - 1) == 0 or bool(judged.struck and not self._struck)

    def _push(self, frontier: Frontier, cost: Cost, record: Record, cut: int) -> None:
        """Note where the run has been until it was stopped, what it has learnt by then, and what else could be done."""
        course, visited, reduce = record.course, frontier.visited, self._bounds.reduce
        for position, place in enumerate(record.places[:cut], record.start):
            if reduce:
                visited.note(place.key, cost)
            for other in place.others:
                frontier.push(other.cost, Branch(course, position, place.before, other))
        frontier.ends.update(record.ends[: record.places[cut].learnt] if cut < len(record.places) else record.ends)

    def _judge(self, frontier: Frontier, cost: Cost, retries: int, record: Record, judged: Judged) -> None:
        """Take in the end of a run that was played to its end."""
        course, judgement = record.course, judged.judgement
        if self._is_repeated(frontier.run, judged):
            self._recorder.repeat(course.decisions, retries, record.events)
        if self._first is None:
            self._first, self._endings = judgement, endings(self._scenario, record.events)
        self._struck += judged.struck > 0
        self._succeeded |= judged.succeeded
        self._errors.update(dict.fromkeys(judged.errors))
        self._outcomes.add(", ".join(judgement.kinds))
        if judgement.findings and _is_better(judged, cost, record, frontier.best):
            frontier.best = Counterexample(
                course.decisions, course.taken, retries, *cost, tuple(record.events), judgement, record.deciding
            )


def _agree(one: Record, other: Record) -> bool:
    """Whether two records of one branch agree as far as both go."""
    if one.scripts != other.scripts:
        return True  # footprints rest on them
    if any(mine.key != yours.key for mine, yours in zip(one.places, other.places, strict=False)):
        return False
    first, second = one.judged, other.judged
    return first is None or second is None or first.judgement.kinds == second.judgement.kinds


def _rank(found: Counterexample) -> tuple[int, int, int, int]:
    return _ranked(found.judgement, (found.faults, found.preemptions), len(found.decisions))


def _ranked(judgement: Judgement, cost: Cost, steps: int) -> tuple[int, int, int, int]:
    """How good a find is, best first: the worst kind, then fewest faults, fewest preemptions, fewest steps."""
    return KINDS.index(judgement.kinds[0]), *cost, steps


def _is_better(judged: Judged, cost: Cost, record: Record, best: Counterexample | None) -> bool:
    return best is None or _ranked(judged.judgement, cost, len(record.course.decisions)) < _rank(best)


def _worse(one: Counterexample | None, other: Counterexample | None) -> Counterexample | None:
    """The better of two finds; the first if they are equal."""
    if one is None or other is None:
        return one or other
    return other if _rank(other) < _rank(one) else one
