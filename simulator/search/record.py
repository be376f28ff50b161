"""Plays one branch, and records all that a search learns from it.

A run is decided by its branch: the default is taken wherever that ends. So it does not matter who plays it, nor when:
what is recorded is the same, and the search takes it in at the branch's turn.

Up to where it leaves the course of an earlier run, a run is told what that has found out of each step: what it
touches, and the server's reply. Then reads are not sent at all, and writes in one go, whose replies are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from podrace.simulator.errors import TargetError, error_in_words
from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import Judgement, by_severity
from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.faults import CLOCK, Fault
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search import strikes
from podrace.simulator.search.frontier import Bounds, Branch, Cost, Course, Key, Other, until_it_leaves
from podrace.simulator.search.play import Play
from podrace.simulator.search.schedule import Decision, Stop, another_way, follow
from podrace.simulator.world.steps import GO, Step, pod_of
from podrace.simulator.world.trace import Before, Ended


class Restart(Exception):  # noqa: N818 - it is no error
    """Something was learnt that makes everything explored so far worthless."""


def judge(scenario: Scenario, run: Run) -> Judgement:
    """What one run shows."""
    return Judgement(by_severity(scenario.findings(run)), scenario.workload.counted(run))


def endings(scenario: Scenario, events: Sequence[Event]) -> dict[str, tuple[str, str]]:
    """By the scenario's own calls that ended in a run, how they did: `ok`, `fail` or `info`, and the error."""
    names = {event["call"]: event["name"] for event in events if event["type"] == "invoke"}
    own = {call.name for calls in scenario.lines.values() for call in calls}
    ended = [event for event in events if event["type"] in ("ok", "fail", "info") and names[event["call"]] in own]
    return {names[event["call"]]: (event["type"], event.get("error") or "") for event in ended}


class Place(NamedTuple):
    """Where a run was free to decide."""

    key: Key
    before: Before
    learnt: int
    """How many of the record's ends were known by then."""
    others: tuple[Other, ...]


@dataclass(frozen=True)
class Judged:
    """What a run that was played to its end shows."""

    judgement: Judgement
    struck: int
    succeeded: bool
    errors: tuple[str, ...]


@dataclass
class Record:
    """What one run has brought, from the end of its prefix on."""

    course: Course
    start: int
    """How many decisions its branch had taken for it."""
    places: list[Place]
    ends: list[tuple[int, Ended]]
    judged: Judged | None
    """None where the run was stopped at its last place, which was known."""
    events: list[Event]
    deciding: int | None
    scripts: frozenset[str]
    """The scripts of the target that were known before: footprints rest on them."""
    learns: bool = False
    """Whether it made others known."""
    prints: bool = False
    """Whether a pod printed something."""


class Recorder:
    """Plays branches of one scenario. `play(retries)` makes a fresh Play; `finish(play)` clears up behind it.

    `finish` may raise Restart: what it has found makes all runs so far worthless.
    """

    def __init__(
        self, scenario: Scenario, play: Callable[[int], Play], finish: Callable[[Play], None], bounds: Bounds
    ) -> None:
        self._scenario = scenario
        self._make_play = play
        self._finish = finish
        self._bounds = bounds

    def record(
        self,
        branch: Branch | None,
        cost: Cost,
        retries: int,
        is_known: Callable[[Key, Cost], bool],
        is_late: Callable[[], bool] = lambda: False,
    ) -> Record | None:
        """Run one schedule and judge it. Returns None if time ran out in the middle of it."""
        play = self._make_play(retries)
        texts = play.side.table.texts
        scripts = frozenset(texts)
        way = until_it_leaves(branch) if branch is not None else Course((), ())
        if way.scripts == len(scripts):
            play.begins_as = way
        chooser = _Chooser(branch, way, cost, self._bounds, self._scenario.faults, is_known, is_late)
        run = judgement = None
        try:
            run = play.run(chooser)
            judgement = judge(self._scenario, run)
        except Stop:
            if chooser.late:
                return None
        finally:
            self._finish(play)
        judged = None
        if run is not None and judgement is not None:
            succeeded = self._scenario.workload.is_judgeable(run) or bool(run.waits)
            errors = tuple(call.error for call in run.calls if call.error)
            judged = Judged(judgement, play.struck, succeeded, errors)
        return Record(
            course=Course(tuple(play.decisions), tuple(play.taken), tuple(play.known), len(scripts)),
            start=branch.position + 1 if branch is not None else 0,
            places=chooser.places,
            ends=list(play.ends.items()),
            judged=judged,
            events=play.events,
            deciding=play.deciding_event,
            scripts=scripts,
            learns=len(texts) != len(scripts),
        )

    def repeat(self, decisions: Sequence[Decision], retries: int, events: Sequence[Event]) -> None:
        """Run a schedule again: what differs is the target's own doing, and no verdict can rest on it."""
        play = self._make_play(retries)
        try:
            play.run(follow(tuple(decisions)))
        finally:
            self._finish(play)
        for number, (first, second) in enumerate(zip(events, play.events, strict=False)):
            try:
                is_same = first == second
            except Exception as error:  # a user's own comparison, or something that holds itself
                raise TargetError(
                    f"what the target returns cannot be compared: {error_in_words(error)}; no verdict can be given"
                ) from error
            if not is_same:
                raise another_way(number, first, second)
        if len(events) != len(play.events):
            raise another_way(min(len(events), len(play.events)), len(events), len(play.events))


class _Chooser:
    """Follows a branch, then takes the default everywhere and notes what else could be done."""

    def __init__(
        self,
        branch: Branch | None,
        way: Course,
        cost: Cost,
        bounds: Bounds,
        faults: Sequence[Fault],
        is_known: Callable[[Key, Cost], bool],
        is_late: Callable[[], bool],
    ) -> None:
        self._bounds = bounds
        self._on_steps = [fault for fault in faults if type(fault).on_step is not Fault.on_step]
        self._strikes_pods = any(type(fault).on_pod is not Fault.on_pod for fault in faults)
        self._is_known = is_known
        self._is_late = is_late
        self._cost = cost
        self._prefix = way.decisions if branch is None else (*way.decisions, branch.other.decision)
        self._taken = way.taken
        self._others: list[Other] = []
        self.places: list[Place] = []
        self.late = False

    def __call__(self, play: Play, steps: list[Step], default: Step) -> Decision:
        position = len(play.decisions)
        if position < len(self._prefix):
            if 0 < position <= len(self._taken) and play.taken[position - 1] != self._taken[position - 1]:
                raise another_way(position, self._taken[position - 1], play.taken[position - 1])
            return self._prefix[position]
        if self._is_late():
            self.late = True
            raise Stop
        before = play.touches.trace.before()
        key = before.value, play.last or "", play.last_pod if self._strikes_pods else ""
        if self._bounds.reduce and self._is_known(key, self._cost):
            self.places.append(Place(key, before, len(play.ends), ()))
            raise Stop
        self._others = []
        self._note_others(play, steps, default)
        self.places.append(Place(key, before, len(play.ends), tuple(self._others)))
        return Decision(default.actor, GO)

    def _note_others(self, play: Play, steps: list[Step], default: Step) -> None:
        faults, preemptions = self._cost
        bounds = self._bounds
        for step in steps:
            cost = preemptions + play.preemptions(step.actor)
            if cost > bounds.preemptions:
                continue
            if step is not default:
                self._note(play, step, GO, (faults, cost))
            if faults < bounds.faults and step.kind != "call" and self._on_steps:
                self._note_faults(play, step, (faults + 1, cost))
        if faults >= bounds.faults:
            return
        struck = faults + 1, preemptions
        for step in play.standing.waits(steps) if self._on_steps else ():
            self._note_faults(play, step, struck)
        scene, standing = play.so_far, list(dict.fromkeys(step.pod for step in steps))
        for fault in play.scenario.faults:
            if play.last_pod and fault.is_open(play.last_pod, scene):
                for action in fault.on_pod(play.last_pod, scene):
                    self._note_strike(play, play.last_pod, action, struck)
            for action in fault.on_clock(standing, scene):
                self._note_strike(play, CLOCK, action, struck)

    def _note_faults(self, play: Play, step: Step, cost: Cost) -> None:
        footprint, scene = play.touches.footprint(step), play.so_far
        for fault in self._on_steps:
            if fault.is_open(step.pod, scene):
                for action in fault.on_step(step, footprint, scene):
                    self._note(play, step, action, cost)

    def _note(self, play: Play, step: Step, action: str, cost: Cost) -> None:
        event, begins = play.touches.event_of(step, action)
        pod = step.pod if self._strikes_pods else ""
        self._others.append(Other(Decision(step.actor, action), event, begins, step.actor, pod, cost))

    def _note_strike(self, play: Play, pod: str, action: str, cost: Cost) -> None:
        event = strikes.event_of(play, pod, action)
        hand = play.last if play.last and pod_of(play.last) != pod else ""
        self._others.append(Other(Decision(pod, action), event, False, hand, "", cost))
