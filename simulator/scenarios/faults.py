"""What the harness does to a fleet on purpose: one small class a fault, its effect in it.

A fault offers strikes. One on a step stands in the place of `go`; one on a pod strikes right after one of the
pod's own steps, which is enough, since what other pods do in between commutes with it; one on the clock lets
time pass. `pods`, `since` and `until` narrow every fault alike: to pods, to after they have done something,
to before. What a pod does is named by the command (`LTRIM`), the service (`memory`, `gemini.upload`) or the
method called (`add_message`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from podrace.simulator.history.events import plain
from podrace.simulator.world.footprints import Footprint, key_text, names_of
from podrace.simulator.world.steps import DROP_REPLY, DROP_REQUEST, FAIL, HANG, TRANSACTION, Step

KILL = "kill"
CANCEL = "cancel "
CORRUPT = "corrupt "
UNTIL = "until "
CLOCK = "clock"
"""The actor of a decision that lets time pass."""


class Scene(Protocol):
    """What a fault may ask of the run so far. All of it follows from the steps taken, in whatever order."""

    @property
    def prefix(self) -> str:
        """The prefix of every key of the run."""
        ...

    def has_done(self, step: str, pod: str) -> bool:
        """Whether a pod has taken such a step."""
        ...

    def names(self, step: Step) -> set[str]:
        """The names of the commands that a step sends, those inside a script included, in upper case."""
        ...

    def is_calling(self, method: str, pod: str) -> bool:
        """Whether a call of the method is under way in the pod."""
        ...

    def cancellable(self, pod: str) -> Sequence[str]:
        """The actors of a pod whose calls are coroutines under way."""
        ...

    def can_be_damaged(self, key: str) -> bool:
        """Whether a key holds something that can be damaged."""
        ...

    def moments(self) -> Sequence[tuple[int, bool]]:
        """What is due next, in order: microseconds from now, and whether a key's time to live is over then."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fault:
    """No fault: the order of steps is enough. The base class of all faults."""

    pods: frozenset[str] | None = None
    since: str | None = None
    until: str | None = None
    during: str | None = None
    """A method: only while the pod is busy with a call of it."""

    def is_open(self, pod: str, scene: Scene) -> bool:
        """Whether the fault may strike this pod now."""
        return (
            (self.pods is None or pod in self.pods)
            and (self.since is None or scene.has_done(self.since, pod))
            and (self.until is None or not scene.has_done(self.until, pod))
            and (self.during is None or scene.is_calling(self.during, pod))
        )

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        """Actions that may stand in the place of letting this step go."""
        return ()

    def on_pod(self, pod: str, scene: Scene) -> Sequence[str]:
        """Actions that may strike the pod whose step was the last."""
        return ()

    def on_clock(self, standing: Sequence[str], scene: Scene) -> Sequence[str]:
        """How far time may pass while the pods named are under way."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Kill(Fault):
    """A pod dies between two of its steps, its memory with it. With `restart` its next call starts it again."""

    restart: bool = False

    def on_pod(self, pod: str, scene: Scene) -> Sequence[str]:
        return (KILL + (" and restart" if self.restart else ""),)


@dataclass(frozen=True, kw_only=True)
class CancelCall(Fault):
    """A call that is a coroutine is cancelled at the `await` at which it stands, as when its client has gone away."""

    def on_pod(self, pod: str, scene: Scene) -> Sequence[str]:
        return [CANCEL + actor for actor in scene.cancellable(pod)]


@dataclass(frozen=True, kw_only=True)
class TimePasses(Fault):
    """Time passes while pods are under way: one of them is slow, or stands still and knows nothing of it.

    It passes to the next moment at which something is due, or any later one, at most `at_most_s` from now, for
    every pod and the server alike. `keys_only`: only to where a key's time to live is over.
    """

    at_most_s: float | None = None
    keys_only: bool = False

    def on_clock(self, standing: Sequence[str], scene: Scene) -> Sequence[str]:
        if not any(self.is_open(pod, scene) for pod in standing):
            return ()
        most_us = None if self.at_most_s is None else self.at_most_s * 1_000_000
        return tuple(
            f"{UNTIL}{us}"
            for us, ends_a_key in scene.moments()
            if (most_us is None or us <= most_us) and (ends_a_key or not self.keys_only)
        )


@dataclass(frozen=True, kw_only=True)
class LoseConnection(Fault):
    """A connection breaks at a command, before or after the server applied it, or while the pod waits on it.

    `commands`: only at these, in whatever case and inside whatever transaction or script they are sent; none of them:
    only while the pod waits for something to read.
    """

    actions: tuple[str, ...] = (DROP_REQUEST, DROP_REPLY)
    commands: frozenset[str] | None = None

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        if step.kind == "receive":
            return (DROP_REPLY,) if not self.commands and DROP_REPLY in self.actions else ()
        if step.kind != "redis" or (self.commands is not None and not self.commands & scene.names(step)):
            return ()
        return self.actions


def declared_by(command: tuple[Any, ...]) -> list[str]:
    """The keys that a script is given, whatever else it may touch."""
    if not names_of(command) & {"EVAL", "EVALSHA"} or command[0] == TRANSACTION or len(command) < 3:
        return []
    return [key_text(key) for key in command[3 : 3 + int(plain(command[2]))]]


@dataclass(frozen=True, kw_only=True)
class CorruptKey(Fault):
    """What a key holds is damaged just before a command reads it."""

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        if step.kind != "redis":
            return ()
        if names_of(step.args) <= _READ_NOTHING:
            return ()
        held = [key for key in (*footprint.touched(), *declared_by(step.args)) if scene.can_be_damaged(key)]
        return tuple(CORRUPT + key.removeprefix(scene.prefix) for key in dict.fromkeys(held))


_READ_NOTHING = frozenset({"SET", "SETEX", "DEL", "UNLINK", "RPUSH", "LPUSH", "EXPIRE", "PEXPIRE"})


@dataclass(frozen=True, kw_only=True)
class FailService(Fault):
    """A service answers with an error, never answers, or does what it is asked and its reply is lost."""

    service: str
    actions: tuple[str, ...] = (FAIL, HANG, DROP_REPLY)

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        return self.actions if step.kind == "service" and step.args[0] == self.service else ()
