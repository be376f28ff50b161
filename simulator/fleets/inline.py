"""The same pods in one process: every actor a greenlet that stops at each gate, time virtual.

One step is taken at a time, so a run is repeated exactly by repeating its decisions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import greenlet

from podrace.simulator.errors import HarnessError, TargetError, connection_error
from podrace.simulator.fleets.protocol import VirtualGate
from podrace.simulator.history.outcome import Result, outcome
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.target import PodEnv, Target, left, make_pod, method_of
from podrace.simulator.world.clock import EPOCH_US
from podrace.simulator.world.locks import VirtualLock
from podrace.simulator.world.plain.inside import Inside, inside_of
from podrace.simulator.world.steps import (
    Gate,
    PodKilledError,
    Step,
    as_sent,
    foreign_thread,
    plain_reply,
    pod_of,
)

MOST_SURVIVED = 100
_UNENDED: list[greenlet.greenlet] = []
"""Actors that nothing ends: forgetting them would start them once more."""


class _Actor(greenlet.greenlet):
    name: str
    gate: _InlineGate | None = None
    step: Step | None = None
    """Where it stands."""
    taken: list[tuple[Step, str]]
    """The steps that it is taking, and what becomes of them: a service may call back while it is called."""
    connection: Any = None
    """Where it waits for something to read."""
    hears_later = False
    """Whether it stops before its pod hears what the step that it is taking has brought."""
    aside: Callable[[Callable[[], Any]], Any] | None = None
    """What lets others go on meanwhile, where something is kept by thread that is the actor's."""
    survived = 0
    """How often it was told that its pod is dead, and went on."""


def leave(actor: greenlet.greenlet) -> None:
    """Leave an actor that nothing ends where it stands."""
    _UNENDED.append(actor)


def current_env() -> PodEnv | None:
    """The environment of the pod whose actor is running; None where none is."""
    actor = greenlet.getcurrent()
    return actor.gate.env if isinstance(actor, _Actor) and actor.gate else None


def current_inside() -> Inside:
    """What belongs to the pod of plain code whose actor is running. Raises PodKilledError where none is."""
    return inside_of(getattr(greenlet.getcurrent(), "gate", None))


def refuse_current(error: Callable[[], Exception]) -> None:
    """End the run of the pod whose actor is running; nothing where none is, or the pod is dead."""
    actor = greenlet.getcurrent()
    if isinstance(actor, _Actor) and actor.gate is not None and not actor.gate.dead:
        actor.gate.refuse(error())


def in_pod() -> bool:
    """Whether it is a pod's actor that is running."""
    return isinstance(greenlet.getcurrent(), _Actor)


class InlineFleet:
    """The pods of one schedule. `make_env(name, incarnation, gate)` builds a pod's environment.

    `cancels`: calls may be cancelled.
    """

    kind = "inline"

    def __init__(
        self, target_of: Callable[[str], Target], make_env: Callable[[str, int, Gate], PodEnv], *, cancels: bool = False
    ) -> None:
        self._target_of = target_of
        self._make_env = make_env
        self.cancels = cancels
        self._hub = greenlet.getcurrent()
        self.thread = threading.get_ident()
        self._actors: dict[str, _Actor] = {}
        self._standing: list[Step] | None = None
        """The steps before which actors stand; None once one may have moved."""
        self._starting: list[_Actor] = []
        self._gates: dict[str, _InlineGate] = {}
        self._incarnations: dict[str, int] = {}
        self._now_us = EPOCH_US
        self.asked_time = False
        self.done: list[tuple[Step, str, Any]] = []
        self.results: list[tuple[int, Result]] = []
        self.died: list[tuple[str, str]] = []
        self.broken: BaseException | None = None

    def steps(self) -> list[Step]:
        if self._standing is None:
            self._standing = [actor.step for actor in self._actors.values() if actor.step is not None]
        return self._standing

    def step_of(self, actor: str) -> Step | None:
        found = self._actors.get(actor)
        return found.step if found is not None else None

    @property
    def pods(self) -> list[Any]:
        """What the factory has made so far."""
        return [gate.pod for gate in self._gates.values() if gate.pod is not None]

    def is_ready(self, actor: str) -> bool:
        connection = self._actors[actor].connection
        return connection is not None and connection.is_readable()

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        name = pod_of(actor)
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = _InlineGate(self, name)

        def run() -> None:
            if gate.pod is None:
                number = self._incarnations[name] = self._incarnations.get(name, 0) + 1
                gate.env = self._make_env(name, number, gate)
                made = make_pod(self._target_of(name), gate.env)
                if gate.pod is None:  # else another call has made it while this one waited
                    gate.pod = made
            # A copy, as between processes: what a pod does with its own afterwards, nobody else sees.
            bound = method_of(gate.pod, method)
            self.results.append((call, outcome(lambda: as_sent(bound(*args)))))

        self._begin(actor, gate, run)
        self._settle()

    def let_go(self, actor: str, action: str, answer: tuple[Any] | None = None, *, hears_later: bool = False) -> None:
        current = self._actors[actor]
        current.hears_later = hears_later
        assert current.gate is not None
        current.gate.answer = answer
        current.step = self._standing = None
        current.switch(action)
        if current.dead:
            del self._actors[actor]
        if self._starting or self.broken is not None:
            self._settle()

    def kill(self, pod: str) -> None:
        self._standing = None
        gate = self._gates.pop(pod, None)
        if gate is not None:
            gate.dead = True
        for name, actor in list(self._actors.items()):
            if pod_of(name) == pod:
                actor.step = None
                if not actor.dead and actor not in _UNENDED:
                    actor.switch("")  # raises PodKilledError in it
                del self._actors[name]

    def can_cancel(self, actor: str) -> bool:
        gate = self._gates.get(pod_of(actor))
        return gate is not None and gate.inside is not None and gate.inside.can_cancel(actor)

    def cancel(self, actor: str) -> None:
        self._gates[pod_of(actor)].inside.cancel(actor)
        self._settle()

    def set_clock(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """What time it is, for a pod that asks for it."""
        self.asked_time = True
        return self._now_us

    def close(self) -> None:
        for pod in list(self._gates):
            self.kill(pod)

    def _begin(self, name: str, gate: _InlineGate, function: Callable[[], None]) -> None:
        def run(_: object) -> None:
            try:
                function()
            except PodKilledError:
                pass
            except (TargetError, HarnessError) as error:
                self.broken = self.broken or error
            except Exception as error:  # as a thread's: the pod goes on without it
                self.died.append((name, plain_reply(error)))
            except Interrupted as error:
                self.broken = self.broken or error
            except BaseException as error:
                self.broken = self.broken or left(name, error)

        actor = _Actor(run, self._hub)
        actor.name, actor.gate, actor.taken = name, gate, []
        self._actors[name] = actor
        self._starting.append(actor)

    def _settle(self) -> None:
        """Run new actors to their first gate, in order, and forget those that ended."""
        self._standing = None
        while self._starting:
            actor = self._starting.pop(0)
            actor.switch("")
            if actor.dead:
                del self._actors[actor.name]
        if self.broken is not None:
            raise self.broken


def raise_in_harness(error: BaseException) -> NoReturn:
    """Raise an error in the harness, even where a target is running just now, which might catch it."""
    actor = greenlet.getcurrent()
    if isinstance(actor, _Actor) and actor.parent is not None:
        _UNENDED.append(actor)
        actor.parent.throw(error)
    raise error


class _InlineGate(VirtualGate):
    """One pod's gate and virtual runtime."""

    def __init__(self, fleet: InlineFleet, name: str) -> None:
        self._fleet = fleet
        self._name = name
        self._spawned: dict[str, int] = {}
        self.pod: Any = None
        self.now_us = fleet.now_us
        self.cancels = fleet.cancels
        self.dead = False

    def before(self, kind: str, args: tuple[Any, ...], connection: Any = None) -> str:
        if threading.get_ident() != self._fleet.thread:
            self._expel()
        actor = greenlet.getcurrent()
        if not isinstance(actor, _Actor) or actor.gate is not self:
            raise TargetError(
                f"pod {self._name} is used from outside its own calls: pods of one process must not share "
                "objects; no verdict can be given"
            )
        if self.dead:
            self._end(actor)
        actor.connection = connection
        step = actor.step = Step(actor.name, kind, args)
        hub = self._fleet._hub
        action: str = hub.switch() if actor.aside is None else actor.aside(hub.switch)
        if self.dead:
            raise PodKilledError
        actor.taken.append((step, action))
        return action

    def _end(self, actor: _Actor) -> NoReturn:
        """End an actor of a dead pod. One that swallows even that for ever is left where it stands."""
        actor.survived += 1
        if actor.survived < MOST_SURVIVED:
            raise PodKilledError
        self._fleet.broken = self._fleet.broken or TargetError(
            f"{actor.name} does not end with its pod: it catches BaseException and goes on; expected `except Exception`"
        )
        _UNENDED.append(actor)
        while True:
            self._fleet._hub.switch()

    def is_done(self, reply: Any) -> _Actor:
        actor = greenlet.getcurrent()
        assert isinstance(actor, _Actor)
        step, action = actor.taken.pop()
        self._fleet.done.append((step, action, reply))
        return actor

    def park(self, seconds: float | None) -> bool:
        actor = greenlet.getcurrent()
        assert isinstance(actor, _Actor)
        if self.dead:
            self._end(actor)
        if seconds is not None:
            actor.step = Step(actor.name, "timer", self.deadline(seconds))
        step, hub = actor.step, self._fleet._hub
        action: str = hub.switch() if actor.aside is None else actor.aside(hub.switch)
        if self.dead:
            raise PodKilledError
        if action and step is not None:
            self._fleet.done.append((step, action, None))
        return not action

    def unpark(self, actor: str) -> None:
        if not self.dead:
            found = self._fleet._actors[actor]
            found.step = None
            self._fleet._starting.append(found)

    def set_aside(self, function: Callable[[Callable[[], Any]], Any] | None) -> None:
        greenlet.getcurrent().aside = function  # type: ignore[attr-defined]

    def me(self) -> str:
        return greenlet.getcurrent().name  # type: ignore[attr-defined, no-any-return]

    def refuse(self, error: Exception) -> NoReturn:
        self._fleet.broken = self._fleet.broken or error
        raise PodKilledError

    def lost(self, error: BaseException) -> None:
        if not self.dead:
            self._fleet.broken = self._fleet.broken or connection_error(self._name, error)

    def hang(self) -> None:
        self.is_done("never answers")
        while True:
            self._fleet._hub.switch()
            if self.dead:
                raise PodKilledError

    def spawn(self, name: str, function: Callable[[], None]) -> str:
        if threading.get_ident() != self._fleet.thread:
            self._expel()
        number = self._spawned[name] = self._spawned.get(name, 0) + 1
        actor = f"{self._name}.{name}-{number}"
        self._fleet._begin(actor, self, function)
        return actor

    def lock(self) -> AbstractContextManager[Any]:
        return VirtualLock(self, greenlet.getcurrent, lambda owner: str(owner.name))

    def _expel(self) -> NoReturn:
        """End a thread that nobody schedules; the run ends with the reason, not the thread with a traceback."""
        self._fleet.broken = self._fleet.broken or foreign_thread()
        raise SystemExit
