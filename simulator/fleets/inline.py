"""The same pods in one process: every actor a greenlet that stops at each gate, time virtual.

One step is taken at a time, so a run is repeated exactly by repeating its decisions.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import greenlet

from podrace.simulator.errors import TargetError
from podrace.simulator.history.outcome import Result, outcome
from podrace.simulator.search.heap import Heap
from podrace.simulator.target import Pod, PodEnv, Target, make_pod
from podrace.simulator.world.gates import Gate, PodKilledError, Step, VirtualLock, as_sent, foreign_thread, plain_reply

EPOCH_S = 1_700_000_000.0
"""Where every pod's virtual clock starts."""

STEP_WITHIN_S = 5.0


class MemoryList:
    """The memory agent's ledger as a list; passes the same contract tests as the real one."""

    def __init__(self) -> None:
        self._batches: list[tuple[str, str, list[dict[str, Any]]]] = []
        self._ids: set[str] = set()

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str | None = None) -> None:
        batch_id = batch_id or f"batch-{len(self._batches) + 1}"
        if batch_id not in self._ids:
            self._ids.add(batch_id)
            self._batches.append((batch_id, user_id, [dict(part) for part in parts]))

    def batches(self) -> list[tuple[str, str, list[dict[str, Any]]]]:
        return list(self._batches)

    def close(self) -> None:
        """Nothing to close."""


MOST_SURVIVED = 100
_UNENDED: list[greenlet.greenlet] = []
"""Actors that nothing ends: to forget them would start them once more."""


class _Actor(greenlet.greenlet):
    name: str
    step: Step | None = None
    """Where it stands."""
    taken: tuple[Step, str]
    """The step it took last, and what became of it."""
    survived = 0
    """How often it was told that its pod is dead, and went on."""


class InlineFleet:
    """The pods of one schedule. `make_env(name, gate)` builds a pod's environment."""

    kind = "inline"

    def __init__(self, target: Target, make_env: Callable[[str, Gate], PodEnv]) -> None:
        self._target = target
        self._make_env = make_env
        self._hub = greenlet.getcurrent()
        self.thread = threading.get_ident()
        self._actors: dict[str, _Actor] = {}
        self._starting: list[_Actor] = []
        self._gates: dict[str, _InlineGate] = {}
        self._pods: dict[str, Pod] = {}
        self._heap = Heap()
        self._envs: dict[str, PodEnv] = {}
        self.done: list[tuple[Step, str, Any]] = []
        """Steps taken since last looked at: (step, action, reply)."""
        self.results: list[tuple[int, Result]] = []
        self.died: list[tuple[str, str]] = []
        self.broken: BaseException | None = None

    def steps(self) -> list[Step]:
        """The steps at which actors stand, in the order in which the actors began."""
        return [actor.step for actor in self._actors.values() if actor.step is not None]

    def step_of(self, actor: str) -> Step | None:
        """Where one actor stands; None for one that has ended or hangs."""
        found = self._actors.get(actor)
        return found.step if found is not None else None

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        """Begin a call of a pod's method as an actor, up to its first gate. The first call also makes the pod."""
        name = actor.partition(".")[0]
        if name not in self._gates:
            self._gates[name] = _InlineGate(self, name)

        def run() -> None:
            pod = self._pods.get(name) or self._add(name)
            # A copy, as between processes: what a pod does with its own afterwards, nobody else sees.
            self.results.append((call, outcome(lambda: as_sent(getattr(pod, method)(*args)))))

        self._begin(actor, run)
        self._settle()

    def let_go(self, actor: str, action: str) -> None:
        """Let an actor take its step, on to where it stops next."""
        current = self._actors[actor]
        step = current.step
        current.step = None
        if step is not None and step.kind == "timer":
            gate = self._gates[step.pod]
            gate.clock_s = max(gate.clock_s, step.args[0])
            self.done.append((step, action, None))
        current.switch(action)
        self._settle(current)

    def kill(self, pod: str) -> None:
        """The pod's actors end where they stand; nothing of theirs reaches the world any more."""
        gate = self._gates.get(pod)
        if gate is not None:
            gate.dead = True
        for name, actor in list(self._actors.items()):
            if name.partition(".")[0] == pod:
                actor.step = None
                if not actor.dead and actor not in _UNENDED:
                    actor.switch("")  # raises PodKilledError in it
                del self._actors[name]

    def advance(self, pod: str, seconds: float) -> None:
        """Let a pod's clock run on."""
        if pod in self._gates:
            self._gates[pod].clock_s += seconds

    def pause(self, pod: str) -> None:
        """Nothing to do: a pod that nobody lets go stands still."""

    def resume(self, pod: str) -> None:
        """Nothing to do."""

    def close(self) -> None:
        for pod in self._gates:
            self.kill(pod)

    def look(self, but: str) -> bytes | None:
        """What an actor shares with the others of its pod, to be compared; None where it cannot be told."""
        name = but.partition(".")[0]
        gate = self._gates.get(name)
        if gate is None:
            return b"there is no pod yet"
        env = self._envs.get(name)
        roots = (gate.clock_s, gate.spawned, self._pods.get(name), env and (env.rng, env.options))
        outside = (gate, env.redis, env.gemini, env.memory) if env else ()
        others = [actor for key, actor in self._actors.items() if key != but and key.partition(".")[0] == name]
        return self._heap.look(roots, [actor.gr_frame for actor in others], outside)

    def _add(self, name: str) -> Pod:
        env = self._envs[name] = self._make_env(name, self._gates[name])
        pod = self._pods[name] = make_pod(self._target, env)
        return pod

    def _begin(self, name: str, function: Callable[[], None]) -> None:
        def run(_: object) -> None:
            try:
                function()
            except PodKilledError:
                pass
            except TargetError as error:
                self.broken = self.broken or error
            except Exception as error:  # as a thread's: the pod goes on without it
                self.died.append((name, plain_reply(error)))
            except BaseException as error:
                self.broken = self.broken or error

        actor = _Actor(run, self._hub)
        actor.name = name
        self._actors[name] = actor
        self._starting.append(actor)

    def _settle(self, *moved: _Actor) -> None:
        """Run new actors to their first gate, in order, and forget those that ended."""
        for actor in moved:
            if actor.dead:
                del self._actors[actor.name]
        while self._starting:
            actor = self._starting.pop(0)
            actor.switch("")
            if actor.dead:
                del self._actors[actor.name]
        if self.broken is not None:
            raise self.broken


class _InlineGate:
    """One pod's gate and virtual runtime."""

    def __init__(self, fleet: InlineFleet, pod: str) -> None:
        self._fleet = fleet
        self._pod = pod
        self.spawned: dict[str, int] = {}
        self.clock_s = EPOCH_S
        self.dead = False

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        if threading.get_ident() != self._fleet.thread:
            self._expel()
        actor = greenlet.getcurrent()
        assert isinstance(actor, _Actor)
        if self.dead:
            self._end(actor)
        step = actor.step = Step(actor.name, kind, args)
        action: str = self._fleet._hub.switch()
        if self.dead:
            raise PodKilledError
        actor.taken = (step, action)
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

    def after(self, reply: Any) -> None:
        actor = greenlet.getcurrent()
        assert isinstance(actor, _Actor)
        step, action = actor.taken
        self._fleet.done.append((step, action, reply))

    def hang(self) -> None:
        self.after("never answers")
        while True:
            self._fleet._hub.switch()
            if self.dead:
                raise PodKilledError

    def now(self) -> float:
        return self.clock_s

    def sleep(self, seconds: float) -> None:
        self.before("timer", (self.clock_s + seconds, seconds))

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        if threading.get_ident() != self._fleet.thread:
            self._expel()
        number = self.spawned[name] = self.spawned.get(name, 0) + 1
        self._fleet._begin(f"{self._pod}.{name}-{number}", function)

    def lock(self) -> AbstractContextManager[Any]:
        return VirtualLock(self, greenlet.getcurrent)

    def _expel(self) -> NoReturn:
        """End a thread that nobody schedules; the run ends with the reason, not the thread with a traceback."""
        self._fleet.broken = self._fleet.broken or foreign_thread()
        raise SystemExit


class _BlockedError(BaseException):
    """Raised in the harness when a step takes too long."""


@contextmanager
def watchdog(moves: Callable[[], object]) -> Iterator[None]:
    """Turns a target that never comes back into a TargetError: `moves` tells something else after every step.

    An actor that catches even that is left where it stands. Works in the main thread, where signals
    arrive; elsewhere it does nothing.
    """
    hub = greenlet.getcurrent()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: object = None

    def look(*_: object) -> None:
        nonlocal seen
        before, seen = seen, moves()
        if seen != before:
            return
        actor = greenlet.getcurrent()
        if actor is hub:
            raise _BlockedError
        _UNENDED.append(actor)
        hub.throw(_BlockedError)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, STEP_WITHIN_S, STEP_WITHIN_S)
    try:
        yield
    except _BlockedError:
        raise TargetError(
            f"the target did not come back within {STEP_WITHIN_S:g} s: it blocks, or loops, outside its environment"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
