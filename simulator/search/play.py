"""Plays one schedule of a scenario on a fleet, from the first call to rest, and writes its history.

The same code drives pods in this process and pods in processes: a fleet says before which steps its actors stand,
and lets go the one that is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.protocol import Fleet
from podrace.simulator.history.events import Event
from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.run import OPEN, Left, Run
from podrace.simulator.scenarios.faults import CLOCK, CORRUPT, UNTIL, CancelCall, Fault
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.search import strikes
from podrace.simulator.search.lines import Lines, refs_in
from podrace.simulator.search.rest import Rest
from podrace.simulator.search.schedule import FINISH, Chooser, Decision
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.world.clock import US_PER_S, seconds
from podrace.simulator.world.footprints import ALL_OF_IT, CHANNELS, NOTHING, Footprint, words_of
from podrace.simulator.world.steps import (
    DROP_REPLY,
    DROP_REQUEST,
    GO,
    SENT,
    TRANSACTION,
    WAITING,
    Failed,
    Step,
    could_go_on,
    is_woken,
    plain_reply,
)
from podrace.simulator.world.trace import ACTOR, POD, Ends, Trace

MOST_STEPS = 3000
MOST_PASSES = 8
"""So often in a row time passes by itself without a call's begin or end; what is left then are endless loops."""

MOST_PASSES_AFTER = 2
"""So often after the last call, so that what pods do in the background can be struck too; heartbeats never end."""


class Play:
    """One run. After `run`, `events` is its history and `decisions` its schedule."""

    def __init__(
        self, scenario: Scenario, fleet: Fleet, side: ServerSide, services: Mapping[str, Any], *, timed: bool = True
    ) -> None:
        self.scenario = scenario
        self.workload = scenario.workload
        self.side = side
        self.services = services
        self.events: list[Event] = []
        self.decisions: list[Decision] = []
        self.taken: list[tuple[Any, ...]] = []
        """For each decision what it was about: (actor, kind, args)."""
        self.deciding_event: int | None = None
        """Where in the history the last decision stands that was not the default: then nothing else had to go wrong."""
        self.trace = Trace()
        self.ends: Ends = {}
        """By event, the calls that it ends: what a search has learnt."""
        self.last: str | None = None
        """The actor that switching away from would preempt."""
        self.last_pod: str = ""
        """The pod whose step was the last; empty after a strike on a pod."""
        self.struck = 0
        """Faults so far."""
        self.lines = Lines(scenario.lines, scenario.workload)
        self.users_lines = True
        """Whether the scenario's own lines are still being played."""
        self.fleet = fleet
        self.dead: set[str] = set()
        """Pods that were killed for good."""
        self.watched: dict[str, dict[str, None]] = {}
        """By pod, the keys of which a change makes its transactions fail."""
        self.blocked: dict[str, tuple[str, ...]] = {}
        """By actor, the keys that a command which blocks may change once somebody writes one of them."""
        self._strikes_pods = any(type(fault).on_pod is not Fault.on_pod for fault in scenario.faults)
        self._cancels = any(isinstance(fault, CancelCall) for fault in scenario.faults)
        """Whether calls may be cancelled: unlike one that is killed, the pod goes on with what it has heard."""
        self._done: dict[str, set[str]] = {}
        self._broken_in: set[str] = set()
        """Pods in which a connection broke since their calls began."""
        self._unsettled = False
        """Whether the server may still be about to send what a command brings to others than its sender."""
        self._steps_taken = 0
        self._passes = 0
        self._rested_us = 0
        self._said: dict[str, str] = {}
        """By actor, the call of a service that it is taking, in words."""

    def run(self, choose: Chooser) -> Run:
        """Play to the end. `Stop` from the chooser leaves the run unfinished."""
        self._go_through(choose)
        self.users_lines = False
        self._rested_us = self.side.clock.now_us
        Rest(self).bring()
        return self.finished()

    def finished(self) -> Run:
        """The run as checks see it."""

        def left() -> list[Left]:
            there = self.side.left()
            values = self.side.probe.values([key for key, _ in there])
            return [
                Left(key.removeprefix(self.prefix), value, None if us is None else us / US_PER_S)
                for (key, us), value in zip(there, values, strict=True)
            ]

        return Run(
            self.events, self.lines.calls, self.services, self.struck, self._rested_us / US_PER_S, self._waits(), left
        )

    # --- what a fault may ask (faults.Scene) ---

    @property
    def prefix(self) -> str:
        return self.side.prefix

    def has_done(self, what: str, pod: str) -> bool:
        return what in self._done.get(pod, ())

    def names(self, step: Step) -> set[str]:
        return self.side.names(self.side.parts(step))

    def is_calling(self, method: str, pod: str) -> bool:
        return any(self.lines.calls[number].method == method for _, number in self.lines.under_way(pod))

    def cancellable(self, pod: str) -> list[str]:
        if not self.users_lines:
            return []
        return sorted(actor for actor, _ in self.lines.under_way(pod) if self.fleet.can_cancel(actor))

    def can_be_damaged(self, key: str) -> bool:
        return key.startswith(self.prefix) and self.side.probe.damage(key, only_ask=True)

    def moments(self) -> list[tuple[int, bool]]:
        now_us = self.side.clock.now_us
        keys = set(self.side.clock.deadlines.values())
        return [(due - now_us, due in keys) for due in self.side.clock.next(self.deadlines())]

    # --- going through ---

    @property
    def survivors(self) -> list[str]:
        return [pod for pod in self.scenario.pods if pod not in self.dead]

    def preemptions(self, actor: str) -> int:
        """As how many preemptions it counts to go on with this actor: two where another is about to hear a reply.

        Such races are rarer, and to count them as one would thrice the schedules of pods with threads.
        """
        if self.last is None or self.last == actor:
            return 0
        interrupted = self.fleet.step_of(self.last)
        return 2 if interrupted is not None and interrupted.kind == "reply" else 1

    def _go_through(self, choose: Chooser) -> None:
        """Take decisions until every line has ended or waits for ever, and nothing but timers is left."""
        self._passes = 0
        while True:
            steps = self.enabled()
            if not steps and (moment_us := self._next_moment()) is not None:
                self.pass_time(moment_us)
                self._passes += 1
                continue
            self._count_step()
            default = self._default(steps) if steps else Step("", "end", ())
            decision = choose(self, steps, default)
            if decision == FINISH:
                return
            self._apply(decision, default, steps)

    def _next_moment(self) -> int | None:
        """Until when time passes by itself where nobody can go on, in microseconds; None where it does not.

        It passes for a client's call, under way or to come, and then for what pods do besides calls.
        """
        if self.lines.is_open():
            moments = self.side.clock.next(self.deadlines()) if self._passes < MOST_PASSES else []
            return moments[0] if moments else None
        if self._passes >= MOST_PASSES_AFTER:
            return None
        return min((due for step in self.fleet.steps() if (due := _due(step)) is not None), default=None)

    def enabled(self) -> list[Step]:
        """The steps that can be taken now, by actor, so that equivalent histories list them alike."""
        now_us = self.side.clock.now_us
        steps = []
        for step in self.fleet.steps():
            kind = step.kind
            if kind == "timer":
                if step.args[0] > now_us and not is_woken(step):
                    continue
            elif kind == "lock":
                if not step.args[0].free:
                    continue
            elif kind == "receive":
                due = step.args[1]
                if self._unsettled:  # what a command has sent to others has reached them after that, or never will
                    self.side.probe.settle()
                    self._unsettled = False
                if (due is None or due > now_us) and not self.fleet.is_ready(step.actor):
                    continue
            steps.append(step)
        steps += self.lines.due(now_us, self.dead)
        if len(steps) > 1:
            steps.sort(key=lambda step: step.actor)
        return steps

    def waiting(self) -> list[Step]:
        """The steps before which actors stand and cannot go on by themselves."""
        enabled = {step.actor for step in self.enabled()}
        return sorted((step for step in self.fleet.steps() if step.actor not in enabled), key=lambda step: step.actor)

    def waits(self) -> list[Step]:
        """The waits for something to read that cannot go on by themselves: their connections can be lost too."""
        if not any(step.kind == "receive" for step in self.fleet.steps()):
            return []
        return [step for step in self.waiting() if step.kind == "receive"]

    def deadlines(self) -> list[int]:
        found = self.lines.deadlines()
        found += [round(moment_s * US_PER_S) for moment_s in self.workload.moments(self.services)]
        standing = self.fleet.steps()
        found += self.side.pending.deadlines(words_of(step.args) for step in standing if step.kind == "redis")
        return found + [due for step in standing if (due := _due(step)) is not None]

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

    def _apply(self, decision: Decision, default: Step, steps: list[Step]) -> None:
        actor, action = decision
        if decision != (default.actor, GO):
            self.deciding_event = len(self.events)
        self.decisions.append(decision)
        if decision.strikes_no_step:
            strikes.strike(self, actor, action)
        else:
            standing = steps if action == GO else [*steps, *self.waiting()]
            step = default if default.actor == actor else next((one for one in standing if one.actor == actor), None)
            if step is None:
                raise TargetError(f"step {len(self.decisions)}: {actor} is not where the schedule has it")
            self.taken.append((actor, step.kind, step.args))
            self._take(step, action)

    def footprint(self, step: Step, action: str = GO) -> Footprint:
        """What a step touches, the services' state included, and a fault that writes a key."""
        if step.kind == "redis":
            touches = self.side.table.footprint(step.args)
            if step.args[0] == TRANSACTION and step.pod in self.watched:
                touches = Footprint((*touches.reads, *self.watched[step.pod]), touches.writes)
            for keys in self.blocked.values():
                if not set(keys).isdisjoint(touches.writes):  # the server hands on at once what the other waits for
                    touches = Footprint(touches.reads, (*touches.writes, *keys))
            if action.startswith(CORRUPT):
                return Footprint(touches.reads, (*touches.writes, self._full(action)))
            return touches
        if step.kind == "service":
            return Footprint(writes=tuple(f" {name}" for name in self.workload.touches(*step.args)))
        if step.kind == "receive":
            waited_for = self.blocked.get(step.actor)
            return Footprint(writes=waited_for) if waited_for is not None else Footprint(reads=(CHANNELS,))
        return NOTHING

    def event_of(self, step: Step, action: str, footprint: Footprint) -> int:
        """The hash that taking the step would have in the trace."""
        return self._event(step, action, footprint, ACTOR if self._hears_later(step) else POD)

    def _event(self, step: Step, action: str, footprint: Footprint, scope: str) -> int:
        after: Sequence[str] = ()
        if step.kind == "call":
            call = self.lines.next(step.actor)
            after = (*call.after, *refs_in(call.args))
        return self.trace.event(step.actor, action, footprint, scope=scope, begins=self.begins(step), after=after)

    def _hears_later(self, step: Step) -> bool:
        """Whether others of the pod may go between what a step does outside the pod and the pod's hearing of it."""
        if step.kind not in SENT or not self.users_lines:
            return False
        actor, pod, now_us = step.actor, step.pod, self.side.clock.now_us
        if self._strikes_pods or self.lines.is_shared(actor):
            return True
        for other in self.fleet.steps():
            if other.pod == pod and other.actor != actor and could_go_on(other, now_us):
                return True
        return False

    def begins(self, step: Step) -> bool:
        """Whether it matters to a check whether this came before or after the end of a call."""
        if step.kind == "call":
            return self.workload.is_timed(self.lines.next(step.actor).method)
        return step.kind == "service" and self.workload.is_timed(f"service:{step.args[0]}")

    def _take(self, step: Step, action: str) -> None:
        kind, footprint = step.kind, self.footprint(step, action)
        later = self._hears_later(step)
        event = self._add(step, action, footprint, ACTOR if later else POD) if self.users_lines else None
        if action != GO:
            self.struck += 1
        results = len(self.lines.ended)
        if kind == "redis":
            self._take_redis(step, action, footprint, hears_later=later)
        elif kind == "call":
            self._begin(step)
        else:
            self._note(step, action)
            self.fleet.let_go(step.actor, action, hears_later=later)
        pod = self.last_pod = step.pod
        if event is not None and not later:
            self.trace.starts([other.actor for other in self.fleet.steps() if other.pod == pod], event)
        self.collect(event)
        if event is not None and len(self.lines.ended) == results:
            self.ends.setdefault(event, ())
            if kind == "reply" and not self._cancels:
                self.last_pod = ""  # what the pod has heard would be gone with it, as if it had not heard it yet
        now = self.fleet.step_of(step.actor)
        if now is not None and now.kind == "receive" and kind == "redis" and self._goes_on_at_once(now, step):
            return
        self.last = None if now is None or now.kind in WAITING else step.actor

    def _add(self, step: Step, action: str, footprint: Footprint, scope: str) -> int:
        """Add a step to the trace, of which nobody asks once the scenario's own lines are over. Returns its hash."""
        event = self._event(step, action, footprint, scope)
        self.trace.add(event, step.actor, footprint, scope=scope, begins=self.begins(step))
        return event

    def _take_redis(self, step: Step, action: str, footprint: Footprint, *, hears_later: bool) -> None:
        side = self.side
        parts = side.parts(step)
        self._note_redis(step.pod, side.names(parts), footprint, action)
        if action.startswith(CORRUPT):
            key = self._full(action)
            side.probe.damage(key)
            self.fault(step.actor, f"damages {key.removeprefix(side.prefix)}")
            action = GO
        answer = side.answer(parts) if action == GO else None
        began_s = time.monotonic()
        if answer is None:
            side.before(parts, footprint)
        self.fleet.let_go(step.actor, action, answer, hears_later=hears_later)
        if answer is None:
            reply = self.fleet.done[-1][2] if self.fleet.done else None
            if action != DROP_REQUEST:
                side.after(parts, footprint, reply, began_s)
            self._unsettled = True
            if side.clock.deadlines and any(due <= side.clock.now_us for due in side.clock.deadlines.values()):
                side.end_keys()

    def _goes_on_at_once(self, now: Step, step: Step) -> bool:
        """Let an actor read the reply that a command which might have blocked has got at once."""
        self.blocked[step.actor] = self.side.table.footprint(step.args).writes or (CHANNELS,)
        self.side.probe.settle()
        if not self.fleet.is_ready(step.actor):
            self.last = None
            return True
        self._take(now, GO)
        return True

    def _note_redis(self, pod: str, names: set[str], footprint: Footprint, action: str) -> None:
        """Remember what the pod has sent, for the windows of faults, and what its connections hold."""
        self._done.setdefault(pod, set()).update(names)
        if "WATCH" in names:
            self.watched.setdefault(pod, {}).update(dict.fromkeys(footprint.reads))
            self.side.watched.update(footprint.reads)
        if action in (DROP_REQUEST, DROP_REPLY):
            self._broken_in.add(pod)

    def _note(self, step: Step, action: str) -> None:
        """Remember what the pod has asked of a service, and what has become of its waits."""
        if step.kind == "service":
            self._done.setdefault(step.pod, set()).update((step.args[0], f"{step.args[0]}.{step.args[1]}"))
            self._said[step.actor] = self.workload.says(*step.args)
        elif step.kind == "receive":
            self.blocked.pop(step.actor, None)
            if action != GO:
                self._broken_in.add(step.pod)

    def let_all_go(self) -> None:
        """Go on in the default order until nobody can without time passing."""
        while steps := self.enabled():
            self._count_step()
            self._take(self._default(steps), GO)

    def _count_step(self) -> None:
        self._steps_taken += 1
        if self._steps_taken > MOST_STEPS:
            raise TargetError(f"the target did not finish within {MOST_STEPS} steps of one run")

    def busy(self) -> list[str]:
        """The calls under way."""
        return [self.lines.calls[number].name for _, number in self.lines.under_way()]

    def pass_time(self, until_us: int, *, by_itself: bool = True) -> None:
        """Let it be that late, for every pod and for the server."""
        clock = self.side.clock
        passes_us = until_us - clock.now_us
        self.trace.add(self.trace.event(CLOCK, f"{UNTIL}{passes_us}", ALL_OF_IT), CLOCK, ALL_OF_IT)
        clock.now_us = until_us
        gone = [key.removeprefix(self.side.prefix) for key in self.side.end_keys()]
        self.fleet.set_clock(until_us)
        self.events.append(
            {"type": "time", "passes_s": float(seconds(passes_us)), "gone": gone, "fault": not by_itself}
        )

    # --- calls ---

    def _begin(self, step: Step) -> None:
        """Start the next call of a line: an `invoke` in the history, then the pod's method."""
        actor = step.actor
        number, call, args = self.lines.begin(actor, len(self.events))
        self._passes = 0
        self._done.setdefault(step.pod, set()).add(call.method)
        self._broken_in.discard(step.pod)
        self.events.append(
            {
                "type": "invoke",
                "actor": actor,
                "call": number,
                "name": call.name,
                "method": call.method,
                "args": call.args,
            }
        )
        self.fleet.start(actor, number, call.method, args)

    def begin_rest_call(self, pod: str, call: Call) -> None:
        """Add a call that brings the run to rest, on a line of its own."""
        self.lines.add(f"{pod}.{call.name}", call)

    def collect(self, event: int | None = None) -> None:
        """Write what the fleet has done since into the history."""
        fleet = self.fleet
        if fleet.done:
            for step, action, reply in fleet.done:
                told: Event = {
                    "type": "step",
                    "actor": step.actor,
                    "step": step,
                    "action": action,
                    "reply": _comparable(reply),
                }
                if step.kind == "service":
                    failed = action not in (GO, DROP_REPLY) or isinstance(reply, BaseException | Failed)
                    told |= {"says": self._said[step.actor], "failed": failed}
                self.events.append(told)
            fleet.done.clear()
        if fleet.died:
            self.events.extend({"type": "died", "actor": actor, "error": error} for actor, error in fleet.died)
            fleet.died.clear()
        if fleet.results:
            ended = []
            for number, result in fleet.results:
                call = self.lines.calls[number]
                timed = self.workload.is_timed(call.method)
                ended.append((call.name, timed))
                if event is not None:
                    self.trace.end(event, call.name, timed=timed)
                self.end_call(number, result)
            fleet.results.clear()
            if event is not None:
                self.ends[event] = tuple(ended)

    def end_call(self, number: int, result: Result) -> None:
        """End a call: an `ok`, `fail` or `info` in the history."""
        call = self.lines.calls[number]
        if result.type == "fail" and call.pod in self._broken_in:
            result = Result("info", error=result.error)  # what went before it may have been done
        self._passes = 0
        place, now_us, may_insist = len(self.events), self.side.clock.now_us, call.pod not in self.dead
        self.lines.end(number, result, place, now_us, may_insist=may_insist)
        told = {"result": result.value} if result.type == "ok" else {"error": result.error}
        self.events.append({"type": result.type, "actor": call.actor, "call": number, **told})

    def forget_call(self, actor: str) -> None:
        """Leave the call of an actor open for ever: its pod is dead."""
        self._passes = 0
        self.lines.forget(actor)

    def fault(self, actor: str, what: str) -> None:
        self.events.append({"type": "fault", "actor": actor, "what": what})

    def _full(self, action: str) -> str:
        return self.side.prefix + action.removeprefix(CORRUPT)

    def _waits(self) -> dict[str, str]:
        """For each call that can never return, what it waits for; none for one that only waits for time."""
        found = {}
        for actor, number in self.lines.under_way():
            call = self.lines.calls[number]
            step = self.fleet.step_of(actor)
            if call.type != OPEN or step is None or step.kind == "timer":
                continue
            if step.kind == "lock":
                holder = step.args[0].holder
                there = self.fleet.step_of(holder) if holder else None
                of_it = f", which waits for {_waits_for(there)}" if there is not None else ""
                found[call.name] = f"a lock that {holder or 'nobody'} holds{of_it}"
            elif step.kind == "receive" and step.args[1] is None:
                found[call.name] = _waits_for(step)
        return found


def _due(step: Step) -> int | None:
    """When an actor goes on that stands before this step; None where time alone does not wake it."""
    if step.kind == "timer":
        return int(step.args[0])
    return step.args[1] if step.kind == "receive" else None


def _waits_for(step: Step) -> str:
    if step.kind == "lock":
        return "a lock" + (f" that {step.args[0].holder} holds" if step.args[0].holder else "")
    if step.kind == "receive":
        return str(step.args[0]) + ", which nobody sends"
    return f"its {step.kind}"


def _comparable(reply: Any) -> Any:
    """A reply with its errors as text, those among the replies of a transaction too: so it can be compared."""
    if isinstance(reply, BaseException):
        return plain_reply(reply)
    return [_comparable(part) for part in reply] if type(reply) is list else reply
