"""What the steps of a run touch, and so which event of its trace each of them is."""

from __future__ import annotations

from collections.abc import Sequence

from podrace.simulator.fleets.protocol import Fleet
from podrace.simulator.scenarios.faults import CORRUPT
from podrace.simulator.scenarios.model import Workload
from podrace.simulator.search.lines import Lines
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.world.footprints import CHANNELS, NOTHING, THE_TIME, Footprint
from podrace.simulator.world.steps import GO, SENT, TRANSACTION, Step, could_go_on, pod_of
from podrace.simulator.world.trace import ACTOR, POD, Trace

READS_CLOCK = Footprint(reads=(THE_TIME,))


class Touches:
    """`strikes_pods`: a fault may strike between what a step does outside the pod and the pod's hearing of it."""

    def __init__(self, workload: Workload, side: ServerSide, fleet: Fleet, lines: Lines, *, strikes_pods: bool) -> None:
        self.trace = Trace()
        self._workload = workload
        self._side = side
        self._fleet = fleet
        self._lines = lines
        self._strikes_pods = strikes_pods
        self._watched: dict[str, dict[str, None]] = {}
        """By pod, the keys of which a change makes its transactions fail."""
        self._blocked: dict[str, tuple[str, ...]] = {}
        """By actor, the keys that a command which blocks may change once somebody writes one of them."""

    def footprint(self, step: Step, action: str = GO) -> Footprint:
        """What a step touches, the services' state included, and a fault that writes a key."""
        if step.kind == "redis":
            touches = self._side.table.footprint(step.args)
            if self._watched and step.args[0] == TRANSACTION:
                touches = Footprint((*touches.reads, *self._watched.get(step.pod, ())), touches.writes)
            for keys in self._blocked.values():
                if not set(keys).isdisjoint(touches.writes):  # the server hands on at once what the other waits for
                    touches = Footprint(touches.reads, (*touches.writes, *keys))
            if action.startswith(CORRUPT):
                return Footprint(touches.reads, (*touches.writes, self._side.prefix + action.removeprefix(CORRUPT)))
            return touches
        if step.kind == "service":
            return Footprint((THE_TIME,), tuple(f" {name}" for name in self._workload.touches(*step.args)))
        if step.kind == "receive":
            waited_for = self._blocked.get(step.actor)
            read = () if step.args[1] is None else (THE_TIME,)
            return Footprint((CHANNELS, *read)) if waited_for is None else Footprint(read, waited_for)
        return READS_CLOCK if step.kind in ("timer", "call") else NOTHING

    def of_time(self, passes_us: int) -> Footprint:
        """What time touches that passes: what time it is, and the keys whose lives end."""
        clock = self._side.clock
        over = [key for key, due_us in clock.deadlines.items() if due_us <= clock.now_us + passes_us]
        return Footprint(writes=(THE_TIME, *sorted(over)))

    def event_of(self, step: Step, action: str) -> tuple[int, bool]:
        """The hash that taking the step would have in the trace, and whether it begins something (see `begins`)."""
        scope, begins = ACTOR if self.hears_later(step) else POD, self.begins(step)
        return self._event(step, action, self.footprint(step, action), scope, begins=begins), begins

    def add(self, step: Step, action: str, footprint: Footprint, *, hears_later: bool) -> tuple[int, bool]:
        """Add a step to the trace. Returns its hash, and whether it begins something."""
        scope = ACTOR if hears_later else POD
        begins = self.begins(step)
        event = self._event(step, action, footprint, scope, begins=begins)
        self.trace.add(event, step.actor, footprint, scope=scope, begins=begins)
        return event, begins

    def _event(self, step: Step, action: str, footprint: Footprint, scope: str, *, begins: bool) -> int:
        after = self._lines.next(step.actor).follows if step.kind == "call" else ()
        return self.trace.event(step.actor, action, footprint, scope=scope, begins=begins, after=after)

    def hears_later(self, step: Step) -> bool:
        """Whether others of the pod may go between what a step does outside the pod and the pod's hearing of it."""
        actor, kind, _ = step
        if kind not in SENT:
            return False
        if self._strikes_pods or self._lines.is_shared(actor):
            return True
        pod = pod_of(actor)
        return any(
            other.actor != actor and pod_of(other.actor) == pod and could_go_on(other, self._side.clock.now_us)
            for other in self._fleet.steps()
        )

    def begins(self, step: Step) -> bool:
        """Whether it matters to a check whether this came before or after the end of a call."""
        if step.kind == "call":
            return self._workload.is_timed(self._lines.next(step.actor).method)
        return step.kind == "service" and self._workload.is_timed(f"service:{step.args[0]}")

    def watch(self, pod: str, keys: Sequence[str]) -> None:
        """Take note of the keys that a pod watches."""
        self._watched.setdefault(pod, {}).update(dict.fromkeys(keys))
        self._side.watched.update(keys)

    def block(self, step: Step) -> None:
        """Take note of a step whose command may have blocked."""
        self._blocked[step.actor] = self._side.table.footprint(step.args).writes or (CHANNELS,)

    def unblock(self, actor: str) -> None:
        self._blocked.pop(actor, None)

    def forget(self, pod: str) -> None:
        """Forget what a pod's connections held: it is dead."""
        for actor in [actor for actor in self._blocked if pod_of(actor) == pod]:
            del self._blocked[actor]
        self._watched.pop(pod, None)
