"""What a fleet must offer to be led through a schedule."""

from __future__ import annotations

from typing import Any, Protocol

from podrace.simulator.history.outcome import Result
from podrace.simulator.world.steps import Step


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
