"""Plays one schedule of a scenario on a fleet, from the first call to rest, and writes its history.

The same code drives pods in this process and pods in processes: a fleet says before which steps its actors stand,
and lets go the one that is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.protocol import Fleet
from podrace.simulator.history.events import Event
from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.run import Left, Run
from podrace.simulator.scenarios.faults import CLOCK, CORRUPT, UNTIL, CancelCall, Fault
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.search import strikes
from podrace.simulator.search.chronicle import Chronicle
from podrace.simulator.search.frontier import Course
from podrace.simulator.search.lines import Lines
from podrace.simulator.search.rest import Rest
from podrace.simulator.search.schedule import END, FINISH, Chooser, Decision, Known, another_way
from podrace.simulator.search.server_side import Part, ServerSide
from podrace.simulator.search.so_far import SoFar
from podrace.simulator.search.standing import Standing
from podrace.simulator.search.touches import Touches
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.footprints import Footprint
from podrace.simulator.world.steps import (
    DROP_REPLY,
    DROP_REQUEST,
    GO,
    SENT,
    WAITING,
    Step,
    as_sent,
    could_go_on,
    is_woken,
    pod_of,
)
from podrace.simulator.world.trace import ACTOR, POD, READS_CLOCK, Ends

MOST_STEPS = 3000


class Play:
    """One run. After `run`, `events` is its history and `decisions` its schedule."""

    def __init__(self, scenario: Scenario, fleet: Fleet, side: ServerSide, services: Mapping[str, Any]) -> None:
        self.scenario = scenario
        self.workload = scenario.workload
        self.side = side
        self.services = services
        self.fleet = fleet
        self.decisions: list[Decision] = []
        self.taken: list[Step] = []
        """For each decision the step that it was about, or whom a fault struck and how."""
        self.known: list[Known | None] = []
        """For each decision what a later run that begins as this one need not find out again."""
        self.begins_as = Course((), ())
        """How an earlier run began that this one follows so far."""
        self.deciding_event: int | None = None
        """Where in the history the last decision stands that was not the default: then nothing else had to go wrong."""
        self.ends: Ends = {}
        """By event, the calls that it ends: what a search has learnt."""
        self.last: str | None = None
        """The actor that switching away from would preempt: it can go on."""
        self.last_pod: str = ""
        """The pod whose step was the last; empty after a strike on a pod."""
        self.struck = 0
        """Faults so far."""
        self.written = 0
        """Commands so far that may have changed what the server holds."""
        strikes_pods = any(type(fault).on_pod is not Fault.on_pod for fault in scenario.faults)
        self.lines = Lines(scenario.lines, scenario.workload)
        self.history = Chronicle(scenario.workload)
        self.events: list[Event] = self.history.events
        self.standing = Standing(fleet, self.lines, side, scenario.workload, services)
        self.touches = Touches(scenario.workload, side, fleet, self.lines, strikes_pods=strikes_pods)
        self.so_far = SoFar(side, fleet, self.lines, self.standing)
        self._cancels = any(isinstance(fault, CancelCall) for fault in scenario.faults)
        """Whether calls may be cancelled: unlike one that is killed, the pod goes on with what it has heard."""
        self._users_lines = True
        """Whether the scenario's own lines are still being played: of later steps no trace is kept."""
        self._broken_in: set[str] = set()
        """Pods in which a connection broke since their calls began."""
        self._steps_taken = 0
        self._passes = 0
        """So often time has passed by itself without a call's begin or end."""
        self._has_passed = False
        """Whether time has passed by itself since the last decision."""
        self._rested_us = 0

    @property
    def survivors(self) -> list[str]:
        return [pod for pod in self.scenario.pods if pod not in self.standing.dead]

    def run(self, choose: Chooser) -> Run:
        """Play to the end. `Stop` from the chooser leaves the run unfinished."""
        self._go_through(choose)
        self._users_lines = False
        self._rested_us = self.side.clock.now_us
        return Rest(self).bring()

    def finished(self) -> Run:
        """The run as checks see it."""
        return Run(
            self.events,
            self.lines.calls,
            self.services,
            self.struck,
            self._rested_us / US_PER_S,
            self.standing.for_ever(),
            self._left,
        )

    def _left(self) -> list[Left]:
        there = self.side.left()
        values = self.side.probe.values([key for key, _ in there])
        return [
            Left(key.removeprefix(self.side.prefix), value, None if us is None else us / US_PER_S)
            for (key, us), value in zip(there, values, strict=True)
        ]

    # --- going through ---

    def _go_through(self, choose: Chooser) -> None:
        """Take decisions until every line has ended or waits for ever, and nothing but timers is left."""
        while True:
            number = len(self.decisions)
            if number < len(self.begins_as.known) and (known := self.begins_as.known[number]) is not None:
                self._retake(number, known)
                continue
            steps = self.standing.enabled()
            if not steps and (moment_us := self.standing.next_moment(self._passes)) is not None:
                self.pass_time(moment_us)
                self._passes += 1
                self._has_passed = True
                continue
            self._count_step()
            default = self._default(steps) if steps else END
            decision = choose(self, steps, default)
            if decision == FINISH:
                return
            self._apply(decision, default, steps)

    def _retake(self, number: int, known: Known) -> None:
        """Take a step that an earlier run has taken in the same state.

        Raises AnotherWayError where it cannot be taken now.
        """
        expected, now_us = self.begins_as.taken[number], self.side.clock.now_us
        step: Step | None = expected
        if expected.kind != "call":
            step = self.fleet.step_of(expected.actor)
        elif expected not in self.lines.due(now_us, self.standing.dead):
            step = None
        if step is None or step != expected or not could_go_on(step, now_us):
            raise another_way(number + 1, expected, step)
        self._count_step()
        if not known.is_default:
            self.deciding_event = len(self.events)
        self.decisions.append(self.begins_as.decisions[number])
        self.taken.append(step)
        self.known.append(known)
        self._take(step, GO, known)

    def let_all_go(self) -> None:
        """Go on in the default order until nobody can without time passing."""
        while True:
            step = None if self.last is None else self.fleet.step_of(self.last)
            if step is None:
                steps = self.standing.enabled()
                if not steps:
                    return
                step = self._default(steps)
            self._count_step()
            self._take(step, GO)

    def _default(self, steps: list[Step]) -> Step:
        """Go on with the same actor; else what is under way, then new calls, then timers that are due."""
        if self.last is not None:
            for step in steps:
                if step.actor == self.last:
                    return step
            self.last = None
        timer = call = None
        for step in steps:
            if step.kind == "timer" and not is_woken(step):
                timer = step if timer is None or step.args[0] < timer.args[0] else timer
            elif step.kind == "call":
                call = call or step
            else:
                return step
        chosen = call or timer
        assert chosen is not None
        return chosen

    def preemptions(self, actor: str) -> int:
        """As how many preemptions it counts to go on with this actor: two where another is about to hear a reply.

        Such races are rarer, and counting them as one would treble the schedules of pods with threads.
        """
        if self.last is None or self.last == actor:
            return 0
        interrupted = self.fleet.step_of(self.last)
        return 2 if interrupted is not None and interrupted.kind == "reply" else 1

    def _count_step(self) -> None:
        self._steps_taken += 1
        if self._steps_taken > MOST_STEPS:
            raise TargetError(f"the target did not finish within {MOST_STEPS} steps of one run")

    def _apply(self, decision: Decision, default: Step, steps: list[Step]) -> None:
        actor, action = decision
        is_default = actor == default.actor and action == GO
        if not is_default:
            self.deciding_event = len(self.events)
        self.decisions.append(decision)
        if action != GO and decision.strikes_no_step:
            strikes.strike(self, actor, action)
            return
        step: Step | None = default
        if actor != default.actor:
            standing = steps if action == GO else [*steps, *self.standing.waiting(steps)]
            step = next((one for one in standing if one.actor == actor), None)
        if step is None:
            raise TargetError(f"step {len(self.decisions)}: {actor} is not where the schedule has it")
        self.taken.append(step)
        may_be_known = action == GO and step.kind != "receive" and not self._has_passed
        self._has_passed = False
        known = self._take(step, action, is_default=is_default)
        self.known.append(known if may_be_known else None)

    # --- steps ---

    def _take(self, step: Step, action: str, known: Known | None = None, *, is_default: bool = True) -> Known | None:
        """Take a step, of which this may be known. Returns what is known of it then; None where no trace is kept."""
        actor, kind, _ = step
        touches = self.touches
        event, later, begins = None, False, False
        if known is not None:
            _, footprint, event, begins, later, _ = known
            touches.trace.add(event, actor, footprint, scope=ACTOR if later else POD, begins=begins)
        else:
            footprint = touches.footprint(step, action)
            if self._users_lines:
                later = kind in SENT and touches.hears_later(step)
                event, begins = touches.add(step, action, footprint, hears_later=later)
        if action != GO:
            self.struck += 1
        results, reply = len(self.lines.ended), None
        self.fleet.asked_time = False
        if kind == "redis":
            reply = self._take_redis(step, action, footprint, known, hears_later=later)
        elif kind == "call":
            self._begin(step)
        else:
            self._note(step, action)
            self.fleet.let_go(actor, action, hears_later=later)
        if known is None and event is not None:
            known = Known(is_default, footprint, event, begins, later, reply)
        self.last_pod = pod_of(actor)
        if event is not None:
            event = self.reads_clock(event, actor, POD if not later else ACTOR)
        if event is not None and not later:
            touches.trace.starts(self.fleet.steps(), self.last_pod, event)
        self.collect(event)
        if event is not None and len(self.lines.ended) == results:
            self.ends.setdefault(event, ())
            if kind == "reply" and not self._cancels:
                self.last_pod = ""  # what the pod has heard would be gone with it, as if it had not heard it yet
        now = self.fleet.step_of(actor)
        if now is None or now.kind not in WAITING:
            self.last = None if now is None else actor
        elif now.kind != "receive" or kind != "redis" or not self._goes_on_at_once(now, step):
            self.last = None
        return known

    def reads_clock(self, event: int, actor: str, scope: str) -> int:
        """Note whether a pod has read the clock after an event. Returns the hash on which what follows depends.

        The end of a call counts as such, for a check may ask how long the call took.
        """
        if not self.fleet.asked_time and not self.fleet.results:
            return event
        self.ends[event] = READS_CLOCK
        return self.touches.trace.reads_clock(event, actor, scope=scope)

    def _take_redis(
        self, step: Step, action: str, footprint: Footprint, known: Known | None, *, hears_later: bool
    ) -> tuple[Any] | None:
        """Returns what the server replied; None where something befell the step, or the harness replied."""
        side, reply = self.side, None
        parts = side.parts(step)
        self._note_redis(step, parts, footprint, action)
        if action.startswith(CORRUPT):
            key = side.prefix + action.removeprefix(CORRUPT)
            side.probe.damage(key)
            self.history.fault(step.actor, f"damages {key.removeprefix(side.prefix)}")
            action = GO
        answer = side.answer(parts) if action == GO else None
        if answer is not None:
            self.fleet.let_go(step.actor, action, answer, hears_later=hears_later)
            return None
        began_s = monotonic()
        side.before(parts, footprint)
        if known is not None and known.reply is not None and side.can_tell(parts, footprint, known.reply[0]):
            answer = (as_sent(known.reply[0]),)
            if footprint.writes:
                side.owe(step.args, known.reply[0])
        else:
            side.probe.pay()
        self.fleet.let_go(step.actor, action, answer, hears_later=hears_later)
        if self.fleet.done:
            reply = self.fleet.done[-1][2]
        if action != DROP_REQUEST:
            side.after(parts, footprint, reply, began_s)
        self.standing.unsettled = True
        if side.clock.deadlines and any(due <= side.clock.now_us for due in side.clock.deadlines.values()):
            side.end_keys()
        return (reply if type(reply) is not list else list(reply),) if action == GO else None

    def _goes_on_at_once(self, now: Step, step: Step) -> bool:
        """Whether a command that might have blocked has got its reply at once, which its actor then reads."""
        self.touches.block(step)
        self.side.probe.settle()
        if not self.fleet.is_ready(step.actor):
            return False
        self._take(now, GO)
        return True

    def _note_redis(self, step: Step, parts: Sequence[Part], footprint: Footprint, action: str) -> None:
        """Remember what the pod has sent, for the windows of faults, and what its connections hold."""
        pod = pod_of(step.actor)
        if self._users_lines:
            self.so_far.note(pod, *self.side.names(parts))
        if footprint.writes:
            self.written += 1
        if parts[0][1][0] == "WATCH":
            self.touches.watch(pod, footprint.reads)
        if action in (DROP_REQUEST, DROP_REPLY):
            self._broken_in.add(pod)

    def _note(self, step: Step, action: str) -> None:
        """Remember what the pod has asked of a service, and what has become of its waits."""
        if step.kind == "service":
            service, method, *_ = step.args
            self.so_far.note(step.pod, service, f"{service}.{method}")
            self.history.asks(step)
        elif step.kind == "receive":
            self.touches.unblock(step.actor)
            if action != GO:
                self._broken_in.add(step.pod)

    def collect(self, event: int | None = None) -> None:
        """Write what the fleet has done since into the history. `event`: that of the step by which it has done so."""
        fleet = self.fleet
        if fleet.done:
            for done in fleet.done:
                self.history.step(*done)
            fleet.done.clear()
        if fleet.died:
            for died in fleet.died:
                self.history.died(*died)
            fleet.died.clear()
        if fleet.results:
            ended = []
            for number, result in fleet.results:
                call = self.lines.calls[number]
                timed = self.workload.is_timed(call.method)
                ended.append((call.name, timed))
                if event is not None:
                    self.touches.trace.end(event, call.name, timed=timed)
                self.end_call(number, result)
            fleet.results.clear()
            if event is not None:
                self.ends[event] = tuple(ended)

    def pass_time(self, until_us: int, *, by_itself: bool = True) -> None:
        """Let it be that late, for every pod and for the server."""
        clock = self.side.clock
        passes_us = until_us - clock.now_us
        if self._users_lines:
            trace, footprint = self.touches.trace, self.touches.of_time(passes_us)
            event = trace.event(CLOCK, f"{UNTIL}{passes_us}" + (" by itself" if by_itself else ""), footprint)
            trace.add(event, CLOCK, footprint)
            trace.passes(event)
        clock.now_us = until_us
        gone = [key.removeprefix(self.side.prefix) for key in self.side.end_keys()]
        self.fleet.set_clock(until_us)
        self.history.time(passes_us, gone, fault=not by_itself)

    # --- calls ---

    def _begin(self, step: Step) -> None:
        """Start the next call of a line: an `invoke` in the history, then the pod's method."""
        actor, pod = step.actor, step.pod
        number, call, args = self.lines.begin(actor, len(self.events))
        self._passes = 0
        self.so_far.note(pod, call.method)
        self._broken_in.discard(pod)
        self.history.invoke(actor, number, call)
        self.fleet.start(actor, number, call.method, args)

    def begin_rest_call(self, pod: str, call: Call) -> None:
        """Add a call that brings the run to rest, on a line of its own."""
        self.lines.add(f"{pod}.{call.name}", call)

    def busy(self) -> list[str]:
        """The calls under way."""
        return [self.lines.calls[number].name for _, number in self.lines.under_way()]

    def end_call(self, number: int, result: Result) -> None:
        """End a call: an `ok`, `fail` or `info` in the history."""
        call = self.lines.calls[number]
        if result.type == "fail" and call.pod in self._broken_in:
            result = Result("info", error=result.error)  # what went before it may have been done
        self._passes = 0
        place, now_us, may_insist = len(self.events), self.side.clock.now_us, call.pod not in self.standing.dead
        self.lines.end(number, result, place, now_us, may_insist=may_insist)
        self.history.ended(call.actor, number, result)

    def forget_call(self, actor: str) -> None:
        """Leave the call of an actor open for ever: its pod is dead."""
        self._passes = 0
        self.lines.forget(actor)
