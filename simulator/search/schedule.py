"""What a schedule is made of: decisions, who takes them, and what a fleet must offer to be led through one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from podrace.simulator.history.outcome import Result
from podrace.simulator.scenarios.faults import KILL, PAUSE
from podrace.simulator.world.gates import GO, Step

if TYPE_CHECKING:
    from podrace.simulator.search.play import Play

Decision = tuple[str, str]
"""(actor, action), or (pod, `kill` or `pause`)."""

END = Step("", "end", ())
"""Stands for the next step where there is none: a pod may still die after its last."""


class Stop(Exception):  # noqa: N818 - it ends a run, and is no error
    """Raised by a chooser that needs no more of this run."""


class Fleet(Protocol):
    """What a fleet can do; see InlineFleet."""

    kind: str
    done: list[tuple[Step, str, Any]]
    results: list[tuple[int, Result]]
    died: list[tuple[str, str]]

    def steps(self) -> list[Step]: ...
    def step_of(self, actor: str) -> Step | None: ...
    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None: ...
    def let_go(self, actor: str, action: str) -> None: ...
    def kill(self, pod: str) -> None: ...
    def pause(self, pod: str) -> None: ...
    def resume(self, pod: str) -> None: ...
    def advance(self, pod: str, seconds: float) -> None: ...
    def look(self, but: str) -> bytes | None: ...


Chooser = Callable[["Play", list[Step], Step], Decision]
"""Picks the next decision from the steps that are enabled; the last argument is the default."""


def take_default(play: Play, steps: list[Step], default: Step) -> Decision:
    """A chooser that never strays."""
    return default.actor, GO


def follow(decisions: Sequence[Decision]) -> Callable[[Play, list[Step], Step], Decision]:
    """A chooser that repeats a schedule, and takes the default where it ends."""

    def choose(play: Play, steps: list[Step], default: Step) -> Decision:
        position = len(play.decisions)
        decision = decisions[position] if position < len(decisions) else (default.actor, GO)
        return decision if steps or decision[1] in (KILL, PAUSE) else (END.actor, GO)

    return choose
