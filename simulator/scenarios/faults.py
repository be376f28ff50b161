"""What the harness does to a fleet on purpose: one small class a fault, and a no-op.

A fault offers actions at a gate. An action on a step stands in the place of `go`; an action on a pod
strikes right after one of the pod's own steps, which is enough, since what other pods do in between
commutes with it. `heals` says how it ends, `drawn` how a timeline shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from podrace.simulator.world.footprints import Footprint
from podrace.simulator.world.gates import DROP_REPLY, DROP_REQUEST, FAIL, HANG, Step

KILL = "kill"
EARLY = "early"
PAUSE = "pause"
EXPIRE = "expire "
CORRUPT = "corrupt "

PAUSE_S = 60.0
"""A pause, or a queue that stands still, is long when it is longer than any lease."""


class Scene(Protocol):
    """What a fault may ask of the run so far, and of the server about the run's keys."""

    def expires_ms(self, key: str) -> int | None:
        """How long a key has to live; None for one that is not there or never expires."""
        ...

    def is_json(self, key: str) -> bool:
        """Whether a key holds a string that is a JSON object."""
        ...

    def has_done(self, what: str, pod: str | None = None) -> bool:
        """Whether a pod (any, for None) has taken a step of this kind, or sent this Redis command."""
        ...

    def accepting(self, pod: str) -> bool:
        """Whether a call that hands a message in is under way in the pod."""
        ...


class Fault(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def heals(self) -> str: ...
    @property
    def drawn(self) -> str: ...

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        """Actions that may stand in the place of letting this step go."""
        ...

    def on_pod(self, last: Step, scene: Scene) -> Sequence[str]:
        """Actions that may strike the pod whose step was the last."""
        ...


class Nothing:
    """No fault: order alone does it."""

    name, heals, drawn = "nothing", "", ""

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        return ()

    def on_pod(self, last: Step, scene: Scene) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class Kill(Nothing):
    """A pod dies between two of its steps, its memory with it.

    `since`, `until`: only once the pod has taken a step of that kind, or only before it has.
    `accepting`: only while it takes a message in.
    """

    pods: frozenset[str] | None = None
    since: str | None = None
    until: str | None = None
    accepting: bool = False
    name: str = KILL
    heals: str = "never: another pod has to take over"
    drawn: str = "the pod's line ends in a cross"

    def on_pod(self, last: Step, scene: Scene) -> Sequence[str]:
        if self.pods is not None and last.pod not in self.pods:
            return ()
        if self.since and not scene.has_done(self.since, last.pod):
            return ()
        if self.until and scene.has_done(self.until, last.pod):
            return ()
        if self.accepting and not scene.accepting(last.pod):
            return ()
        return (KILL,)


@dataclass(frozen=True)
class Pause(Nothing):
    """A pod stands still for longer than every lease, then goes on as if nothing had happened."""

    pods: frozenset[str] | None = None
    name: str = PAUSE
    heals: str = "the pod goes on when all others are done"
    drawn: str = "the pod's line is dotted"

    def on_pod(self, last: Step, scene: Scene) -> Sequence[str]:
        return (PAUSE,) if self.pods is None or last.pod in self.pods else ()


@dataclass(frozen=True)
class EarlyTimer(Nothing):
    """A timer fires while others are still under way: they are slow, or the clock is fast.

    Without it timers fire late: when nothing else is left to do.
    """

    name: str = EARLY
    heals: str = "nothing to heal: it is late for the others"
    drawn: str = "a mark on the timer's step"

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        return (EARLY,) if step.kind == "timer" else ()


@dataclass(frozen=True)
class LoseConnection(Nothing):
    """A connection breaks at a command, before or after the server applied it."""

    actions: tuple[str, ...] = (DROP_REQUEST, DROP_REPLY)
    commands: frozenset[str] | None = None
    name: str = "lose-connection"
    heals: str = "the client connects again"
    drawn: str = "the arrow ends in a cross"

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        if step.kind != "redis":
            return ()
        return self.actions if self.commands is None or step.args[0] in self.commands else ()


@dataclass(frozen=True)
class ExpireKey(Nothing):
    """A key's time to live is over just before a command that touches it.

    Not sooner: until a command touches it, nobody can tell. `pods`: before a command of
    theirs; `since`: once any pod has sent that command; `until`: before any of these has sent that one.
    """

    longest_ms: int = 2**62
    json_only: bool = False
    pods: frozenset[str] | None = None
    since: str | None = None
    until: tuple[frozenset[str], str] | None = None
    name: str = "expire-key"
    heals: str = "never: the key is gone"
    drawn: str = "a mark on the Redis line"

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        if step.kind != "redis" or (self.pods is not None and step.pod not in self.pods):
            return ()
        if self.since and not scene.has_done(self.since):
            return ()
        if self.until and any(scene.has_done(self.until[1], pod) for pod in self.until[0]):
            return ()
        touched = dict.fromkeys((*footprint.reads, *footprint.writes))
        return tuple(
            EXPIRE + key
            for key in touched
            if (ttl_ms := scene.expires_ms(key)) is not None
            and ttl_ms <= self.longest_ms
            and (not self.json_only or scene.is_json(key))
        )


@dataclass(frozen=True)
class CorruptKey(Nothing):
    """A stored JSON object is damaged just before a command reads it."""

    name: str = "corrupt-key"
    heals: str = "never: the value stays as it is"
    drawn: str = "a mark on the Redis line"

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        if step.kind != "redis":
            return ()
        return tuple(CORRUPT + key for key in footprint.reads if scene.is_json(key))


@dataclass(frozen=True)
class FailGemini(Nothing):
    """Gemini answers 503, never answers, or stores the file and its reply is lost."""

    actions: tuple[str, ...] = (FAIL, HANG, DROP_REPLY)
    name: str = "fail-gemini"
    heals: str = "the next request is served"
    drawn: str = "the arrow to Gemini ends in a cross"

    def on_step(self, step: Step, footprint: Footprint, scene: Scene) -> Sequence[str]:
        return self.actions if step.kind == "gemini" else ()
