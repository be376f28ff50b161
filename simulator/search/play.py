"""Plays one schedule of a scenario on a fleet, from the first call to the last key, and writes its history.

The same code drives pods in this process and pods in processes: a fleet says at which steps its actors
stand, and lets go the one that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import Event, plain
from podrace.simulator.history.outcome import Result
from podrace.simulator.scenarios.catalogue import Absorb, Add, Call, Scenario
from podrace.simulator.scenarios.faults import CORRUPT, EXPIRE, KILL, PAUSE, PAUSE_S
from podrace.simulator.search.heap import Changes
from podrace.simulator.search.schedule import END, Chooser, Decision, Fleet, take_default
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world.footprints import ALL_OF_IT, NOTHING, CommandTable, Footprint, Trace, in_memory
from podrace.simulator.world.gates import GO, Step, as_sent, plain_reply

WAITING = frozenset({"timer", "op", "lock"})
"""Steps before which an actor waits of its own accord: to switch away there is no preemption."""

MOST_STEPS = 3000
LEASE_S = PAUSE_S
LONGER_THAN_ANY_TTL_S = 400 * 24 * 3600.0
REST_POD = "Z"
"""The pod that comes after all others have died."""


class Play:
    """One run. After `run`, `events` is its history and `decisions` its schedule."""

    def __init__(
        self,
        scenario: Scenario,
        fleet: Fleet,
        probe: Probe,
        table: CommandTable,
        *,
        files: Mapping[str, Path],
        deliveries: Callable[[], Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]],
        images: Callable[[], Mapping[str, str]],
        prefix: str,
    ) -> None:
        self.scenario = scenario
        self.events: list[Event] = []
        self.decisions: list[Decision] = []
        self.taken: list[tuple[str, str, tuple[Any, ...]]] = []
        """For each decision the step it was about: (actor, kind, args)."""
        self.deciding_event: int | None = None
        """Where in the history the last decision stands that was not the default: then nothing else had to go wrong."""
        self.trace = Trace()
        self.changes: Changes | None = None
        """What is known of events that change their pod's memory; None: nobody wants to know, nor the trace."""
        self.watch_from = 0
        """The first decision whose step is looked at: the steps before have been."""
        self.last: str | None = None
        """The actor that switching away from would preempt."""
        self.last_step: Step | None = None
        self.struck = 0
        """Faults so far."""
        self.probe = probe
        self.touched: dict[str, None] = {}
        self._done: dict[str, set[str]] = {}
        self.footprints: dict[str, tuple[set[str], set[str]]] = {}
        """By pod, what its steps have read and written."""
        self._watched: dict[str, dict[str, None]] = {}
        """By pod, the keys of which a change makes its transactions fail."""
        self._fleet = fleet
        self._table = table
        self._files = files
        self._deliveries = deliveries
        self._images = images
        self._prefix = prefix
        self._lines = {actor: list(calls) for actor, calls in scenario.lines.items()}
        self._busy: dict[str, Call] = {}
        self._calls: dict[int, tuple[str, Call]] = {}
        self._ended: set[str] = set()
        self._placeholders: dict[str, dict[str, Any]] = {}
        self._accepted: dict[str, Add] = {}
        self._dead: set[str] = set()
        self._paused: list[str] = []

    def run(self, choose: Chooser) -> list[Event]:
        """Play to the end. `Stop` from the chooser leaves the run unfinished: without a `final` event."""
        self._loop(choose)
        self._finish(self._drain())
        return self.events

    def footprint(self, step: Step, action: str = GO) -> Footprint:
        """What a step touches, Gemini's files and the users' memories included, and a fault that writes a key."""
        if step.kind == "redis":
            touches = self._table.footprint(step.args)
            if step.args[0] == "BATCH" and step.pod in self._watched:
                touches = Footprint((*touches.reads, *self._watched[step.pod]), touches.writes)
            for fault in (EXPIRE, CORRUPT):
                if action.startswith(fault):
                    return Footprint(touches.reads, (*touches.writes, action.removeprefix(fault)))
            return touches
        if step.kind == "memory":
            return Footprint(writes=(f"memory of {step.args[0]}",))
        if step.kind == "gemini":
            return Footprint(writes=(f"file {step.args[0]}",))
        if step.kind == "op":  # pods of which one waits for a call of the other are not apart
            call = self._lines[step.actor][0]
            return Footprint(tuple(f"end of {name}" for name in call.after), (f"end of {call.name}",))
        return NOTHING

    def expires_ms(self, key: str) -> int | None:
        """How long a key has to live (faults.Scene)."""
        return self.probe.expires_ms(key)

    def is_json(self, key: str) -> bool:
        """Whether a key holds a JSON object (faults.Scene)."""
        return self.probe.is_json(key)

    def has_done(self, what: str, pod: str | None = None) -> bool:
        """Whether a pod, or any, has taken such a step (faults.Scene)."""
        if pod is None:
            return any(what in done for done in self._done.values())
        return what in self._done.get(pod, ())

    def accepting(self, pod: str) -> bool:
        """Whether a message is being handed in to the pod (faults.Scene)."""
        return any(isinstance(call, Add) and actor.partition(".")[0] == pod for actor, call in self._busy.items())

    def deciding_step(self) -> int | None:
        """Where in the history it was decided: the last decision against the default, else the last delivery."""
        if self.deciding_event is not None:
            return self.deciding_event
        sent = [n for n, event in enumerate(self.events) if event["type"] == "step" and event["step"].kind == "memory"]
        return sent[-1] if sent else None

    def preempts(self, actor: str) -> bool:
        """Whether going on with this actor would preempt another."""
        return self.last is not None and self.last != actor

    def _loop(self, choose: Chooser) -> None:
        while True:
            steps = self._enabled()
            if not steps and self._paused:
                self._resume(self._paused.pop(0))
                continue
            if len(self.decisions) >= MOST_STEPS:
                raise TargetError(f"the target takes no end: more than {MOST_STEPS} steps in one run")
            default = self._default(steps) if steps else END
            decision = choose(self, steps, default)
            if decision == (END.actor, GO):
                return
            if decision == (default.actor, GO):
                self.decisions.append(decision)
                self.taken.append((default.actor, default.kind, default.args))
                self._take(default, GO)
            else:
                self._apply(decision, steps)

    def _enabled(self) -> list[Step]:
        steps = self._fleet.steps()
        for step in steps:
            if step.kind == "lock":
                steps = [step for step in steps if step.kind != "lock" or step.args[0].free]
                break
        for actor, calls in self._lines.items():
            if not calls or actor in self._busy or actor.partition(".")[0] in self._dead:
                continue
            if self._ended.issuperset(calls[0].after):
                steps.append(Step(actor, "op", (calls[0].name,)))
        if self._paused:
            steps = [step for step in steps if step.pod not in self._paused]
        return steps

    def _default(self, steps: list[Step]) -> Step:
        """Go on with the same actor; else what is under way, then new calls, then the next timer."""
        timer = call = None
        if self.last is not None:
            for step in steps:
                if step.actor == self.last:
                    return step
            self.last = None
        for step in steps:
            if step.kind == "timer":
                # Ties by name: the order of the list is history, and equivalent histories differ in it.
                if timer is None or (step.args[0], step.actor) < (timer.args[0], timer.actor):
                    timer = step
            elif step.kind == "op":
                call = call or step
            else:
                return step
        chosen = call or timer
        assert chosen is not None
        return chosen

    def _apply(self, decision: Decision, steps: list[Step]) -> None:
        """Do what is not the default."""
        actor, action = decision
        self.deciding_event = len(self.events)
        self.decisions.append(decision)
        if action in (KILL, PAUSE):
            self.taken.append((actor, action, ()))
            self._strike_pod(actor, action)
            return
        step = next((step for step in steps if step.actor == actor), None)
        if step is None:
            raise TargetError(f"step {len(self.decisions)}: {actor} is not where the schedule has it")
        self.taken.append((actor, step.kind, step.args))
        self._take(step, action)

    def _take(self, step: Step, action: str) -> None:
        footprint = self.footprint(step, action)
        pod = step.pod
        if action != GO:
            self.struck += 1
        done = self._done.setdefault(pod, set())
        done.add(step.kind)
        if step.kind == "redis":
            done.add(plain(step.args[0]))
            if step.args[0] == "WATCH":
                self._watched.setdefault(pod, {}).update(dict.fromkeys(footprint.reads))
        if footprint is not NOTHING:
            self.touched.update(dict.fromkeys(footprint.writes) if step.kind == "redis" else {})
            reads, writes = self.footprints.setdefault(pod, (set(), set()))
            reads.update(footprint.reads)
            writes.update(footprint.writes)
        if self.changes is None:
            self._go(step, action)
        else:
            self._go_watched(step, action, footprint, self.changes)
        self.last_step = step
        self._collect()
        now = self._fleet.step_of(step.actor)
        self.last = None if now is None or now.kind in WAITING else step.actor

    def _go_watched(self, step: Step, action: str, footprint: Footprint, changes: Changes) -> None:
        """Go, see whether that changes the pod's memory, and enter the event into the trace."""
        event = self.trace.event(step.actor, action, in_memory(step.pod, footprint, changes=False))
        known = changes.known(event)
        if changes.always or (known is not None and len(self.decisions) <= self.watch_from):
            self._go(step, action)
        else:
            before = self._fleet.look(step.actor)
            self._go(step, action)
            known = _disturbs(step, action) or before is None or before != self._fleet.look(step.actor)
            changes.learn(event, known)
        self.trace.add(step.actor, action, in_memory(step.pod, footprint, changes=bool(known)))

    def _go(self, step: Step, action: str) -> None:
        if step.kind == "op":
            self._begin(step)
            return
        if action.startswith(EXPIRE):
            self._expire_one(action.removeprefix(EXPIRE), step.actor)
            action = GO
        elif action.startswith(CORRUPT):
            key = action.removeprefix(CORRUPT)
            self.probe.corrupt(key)
            self._fault(step.actor, f"damage {self._short(key)}")
            action = GO
        self._fleet.let_go(step.actor, action)

    def _strike_pod(self, pod: str, action: str) -> None:
        self.struck += 1
        if action == KILL:
            self.trace.add(pod, KILL, in_memory(pod, NOTHING, changes=True))
            self._fleet.kill(pod)
            self._dead.add(pod)
            self._collect()
            self._fault(pod, "killed")
        else:
            lapsed = self.probe.lapse(list(self.touched), PAUSE_S * 1000)
            self.trace.add(pod, PAUSE, ALL_OF_IT)
            self._fleet.pause(pod)
            self._paused = sorted([*self._paused, pod])  # they go on in an order that history does not change
            for other in {actor.partition(".")[0] for actor in self._lines}:
                self._fleet.advance(other, PAUSE_S)
            gone = ", ".join(self._short(key) for key in lapsed) or "nothing"
            self._fault(pod, f"paused for {PAUSE_S:g} s; meanwhile expires: {gone}")
        self.last_step = None
        if self.last is not None and self.last.partition(".")[0] == pod:
            self.last = None

    def _resume(self, pod: str) -> None:
        self._fleet.resume(pod)
        self._fault(pod, "goes on")

    def _expire_one(self, key: str, actor: str) -> None:
        self.probe.delete(key)
        self._fault(actor, f"expire {self._short(key)}")

    def _begin(self, step: Step) -> None:
        """Start the next call of a line: an `invoke` in the history, then the pod's method."""
        actor = step.actor
        call = self._lines[actor][0]
        number = len(self._calls) + 1
        self._calls[number] = (actor, call)
        self._busy[actor] = call
        event: Event = {"type": "invoke", "actor": actor, "call": number}
        if isinstance(call, Add):
            text = call.text or f"text of {call.name}"
            images = [*call.images, *call.again]
            files: list[Any] = [self._files[image] for image in call.images]
            files += [as_sent(self._placeholders[image]) for image in call.again]
            event |= {"op": "add", "message": call.name, "user": call.user, "text": text, "images": images}
            method = "add_message"
            args: tuple[Any, ...] = (call.user, text, files, call.message)
        elif isinstance(call, Absorb):
            event |= {"op": "absorb", "user": call.user}
            method, args = "absorb", (call.user,)
        else:
            event |= {"op": "status", "image": call.image}
            method, args = "upload_status", (as_sent(self._placeholders.get(call.image)),)
        self.events.append(event)
        self._fleet.start(actor, number, method, args)

    def _collect(self) -> None:
        """Write what the fleet has done since into the history."""
        fleet = self._fleet
        if fleet.done:
            self.events.extend(
                {
                    "type": "step",
                    "actor": step.actor,
                    "step": step,
                    "action": action,
                    "reply": _told(reply),
                }
                for step, action, reply in fleet.done
            )
            fleet.done.clear()
        if fleet.results:
            for number, result in fleet.results:
                self._end(number, result)
            fleet.results.clear()
        if fleet.died:
            self.events.extend({"type": "died", "actor": actor, "error": error} for actor, error in fleet.died)
            fleet.died.clear()

    def _end(self, number: int, result: Result) -> None:
        actor, call = self._calls[number]
        del self._busy[actor]
        told = {"result": result.value} if result.type == "ok" else {"error": result.error}
        self.events.append({"type": result.type, "call": number, **told})
        again = isinstance(call, Add) and call.insist and result.type == "info"
        if not again:
            self._lines[actor].pop(0)
            self._ended.add(call.name)
        if isinstance(call, Add) and result.type == "ok":
            self._accepted[call.name] = call
            for image, placeholder in zip((*call.images, *call.again), result.value or (), strict=False):
                self._placeholders[image] = placeholder

    def _fault(self, actor: str, what: str) -> None:
        self.events.append({"type": "fault", "actor": actor, "what": what})

    def _short(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _left(self) -> list[str]:
        """Keys that will be there for longer than a lease."""
        return self.probe.left(list(self.touched), longer_than_ms=LEASE_S * 1000)

    def _undelivered(self) -> list[Add]:
        parts = [part for _, _, parts in self._deliveries() for part in parts]
        texts = {part.get("text") for part in parts}
        named = {part.get("message_id") for part in parts if part.get("type") == "missing_message"}
        waiting = [add for name, add in sorted(self._accepted.items()) if name not in named]
        return [add for add in waiting if (add.text or f"text of {add.name}") not in texts]

    def _drain(self) -> list[str]:
        """Let the surviving pods finish: at once, after every lease, and after every time to live.

        Returns the keys that are left.
        """
        left: list[str] | None = None
        self.changes = None
        self._lines.clear()
        self._busy.clear()
        for stage, passes_s in (("soon", 0.0), ("lease", LEASE_S), ("ttl", LONGER_THAN_ANY_TTL_S)):
            waiting = self._undelivered()
            accepted = [add for _, add in sorted(self._accepted.items())]
            users = {add.user: None for add in (waiting if stage == "ttl" else accepted)}
            if not waiting:
                left = self._left() if left is None else left
                if stage == "ttl" or not left:
                    return left
            left = None
            if passes_s:
                self.probe.lapse(list(self.touched), passes_s * 1000)
            self.events.append({"type": "drain", "stage": stage, "batches": len(self._deliveries())})
            for user in users:
                self._drain_user(user, stage)
        return self._left()

    def _drain_user(self, user: Any, stage: str) -> None:
        pods = [pod for pod in dict.fromkeys(a.partition(".")[0] for a in self.scenario.lines) if pod not in self._dead]
        pod = pods[0] if pods else REST_POD
        for attempt in range(3):
            before = len(self._undelivered())
            actor = f"{pod}.{stage}-{attempt + 1}"
            self._lines[actor] = [Absorb(f"drain {stage} {attempt} {user}", user)]
            self._loop(take_default)
            if not 0 < len(self._undelivered()) < before:
                return

    def _finish(self, left: list[str]) -> None:
        waiting = self._undelivered()
        final: Event = {
            "type": "final",
            "ledger": [(user, parts) for _, user, parts in self._deliveries()],
            "images": dict(self._images()),
            "keys": sorted(self._short(key) for key in left),
        }
        if waiting:
            values = self.probe.values(left)
            texts = [add.text or f"text of {add.name}" for add in waiting]
            final["held"] = [text for text in texts if any(text in value for value in values)]
        self.events.append(final)


def _disturbs(step: Step, action: str) -> bool:
    """Whether a step does something to the connection that its pod's actors share."""
    return step.kind == "redis" and (action != GO or step.args[0] in ("BATCH", "WATCH", "UNWATCH"))


def _told(reply: Any) -> Any:
    """A reply with its errors as text, those among the replies of a transaction too: so it can be compared."""
    if isinstance(reply, BaseException):
        return plain_reply(reply)
    return [_told(part) for part in reply] if type(reply) is list else reply
