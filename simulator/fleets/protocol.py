"""What a fleet must offer to be led through a schedule, and what the gates of its pods have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from podrace.simulator.history.outcome import Result
from podrace.simulator.target import PodEnv
from podrace.simulator.world.client import broken
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.steps import GO, PAST_US, Gate, Step


class Fleet(Protocol):
    """Pods whose actors stop before every step until they are let go. Nothing is awaited."""

    kind: str
    """`inline` or `processes`."""
    done: list[tuple[Step, str, Any]]
    """Steps taken since this list was last emptied: (step, action, reply)."""
    results: list[tuple[int, Result]]
    """How calls ended since this list was last emptied: (number of the call, result)."""
    asked_time: bool
    """Whether a pod may have asked for the time since this was set to False."""
    died: list[tuple[str, str]]
    """Actors that ended in an error that nobody caught: (actor, error)."""

    def steps(self) -> list[Step]:
        """The steps before which actors stand."""
        ...

    def step_of(self, actor: str) -> Step | None:
        """Where one actor stands; None for one that has ended or hangs."""
        ...

    def is_ready(self, actor: str) -> bool:
        """Whether what an actor waits for can be read."""
        ...

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        """Begin a call of a pod's method as an actor, up to its first gate. A pod is made by its first call."""
        ...

    def let_go(self, actor: str, action: str, answer: tuple[Any] | None = None, *, hears_later: bool = False) -> None:
        """Let an actor take its step, on to where it stops next.

        `answer` is a reply in the server's place. One that `hears_later` stops before the pod hears of any reply.
        """
        ...

    def kill(self, pod: str) -> None:
        """The pod's actors end where they stand, its memory goes. Its next call makes it anew."""
        ...

    def can_cancel(self, actor: str) -> bool:
        """Whether the actor's call is a coroutine that has not ended."""
        ...

    def cancel(self, actor: str) -> None:
        """Cancel the actor's call at the `await` at which it stands."""
        ...

    def set_clock(self, now_us: int) -> None:
        """Let it be that late in every pod."""
        ...


class VirtualGate(Gate):
    """What the gates of pods that are led have in common: time is virtual."""

    virtual = True
    answer: tuple[Any] | None = None
    env: PodEnv | None = None
    inside: Any = None
    """What belongs to a pod of plain code."""

    now_us: Callable[[], int]
    is_done: Callable[[Any], Any]
    """Takes note of what the current actor's step brought. Returns the actor: its steps, and if it `hears_later`."""

    @abstractmethod
    def before(self, kind: str, args: tuple[Any, ...], connection: Any = None) -> str:
        """As any gate; `connection` is what the actor waits to read from."""

    def after(self, reply: Any) -> None:
        actor = self.is_done(reply)
        if actor.hears_later:
            actor.hears_later = False
            self.before("reply", ())
            actor.taken.pop()

    def sent(self) -> None:
        self.is_done("sent")

    def receive(self, connection: Any, seconds: float | None, source: str) -> bool:
        deadline_us = None if seconds is None else self.now_us() + round(seconds * US_PER_S)
        if self.before("receive", (source, deadline_us), connection) != GO:
            connection.disconnect()
            error = broken("connection")
            self.after(error)
            raise error
        return bool(connection.is_readable())

    def wait(self, lock: Any, seconds: float | None) -> bool:
        if seconds is None:
            self.before("lock", (lock,))
        else:
            self.before("timer", (*self.deadline(seconds), lock))
        self.after("free" if lock.free else None)
        return bool(lock.free)

    def now(self) -> float:
        return self.now_us() / US_PER_S

    def sleep(self, seconds: float, past_us: int = 0) -> None:
        self.before("timer", (self.now_us() + max(0, round(seconds * US_PER_S)) + past_us, seconds))
        self.after(None)

    def deadline(self, seconds: float) -> tuple[int, float]:
        """When a wait of so many seconds is over, and that number."""
        return self.now_us() + round(seconds * US_PER_S) + PAST_US, seconds
