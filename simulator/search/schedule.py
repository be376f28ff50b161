"""What a schedule is made of: decisions, and who takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from podrace.simulator.errors import AnotherWayError
from podrace.simulator.history.events import shorten
from podrace.simulator.scenarios.faults import CANCEL, CLOCK, KILL
from podrace.simulator.world.footprints import Footprint
from podrace.simulator.world.steps import GO, Step

if TYPE_CHECKING:
    from podrace.simulator.search.play import Play


class Decision(NamedTuple):
    """(actor, `go` or a fault at its step), (pod, `kill…` or `cancel …`), or (`clock`, `until …`)."""

    actor: str
    action: str

    @property
    def strikes_no_step(self) -> bool:
        return self.actor == CLOCK or self.action.startswith((KILL, CANCEL))


class Known(NamedTuple):
    """What a run that begins as another did need not find out again of a step that nothing befell."""

    is_default: bool
    """Whether the step was the default."""
    footprint: Footprint
    event: int
    """Its hash in the trace."""
    begins: bool
    hears_later: bool
    reply: tuple[Any] | None
    """The server's; None where the harness gave it."""


END = Step("", "end", ())
"""Stands for the next step if there is none: a pod may still die after its last one."""

FINISH = Decision(END.actor, GO)


class Stop(Exception):  # noqa: N818 - it ends a run, and is no error
    """Raised by a chooser that needs no more of this run."""


Chooser = Callable[["Play", list[Step], Step], Decision]
"""Picks the next decision from the steps that are enabled; the last argument is the default."""


def take_default(play: Play, steps: list[Step], default: Step) -> Decision:
    """A chooser that never strays."""
    return Decision(default.actor, GO)


def follow(decisions: Sequence[Decision]) -> Chooser:
    """A chooser that repeats a schedule, and takes the default where it ends."""

    def choose(play: Play, steps: list[Step], default: Step) -> Decision:
        position = len(play.decisions)
        return decisions[position] if position < len(decisions) else Decision(default.actor, GO)

    return choose


def another_way(position: int, expected: object, got: object) -> AnotherWayError:
    """The error of a schedule in which something else came at a step than before."""
    return AnotherWayError(
        f"the target is not deterministic: the same schedule went another way at step {position}: "
        f"expected {shorten(str(expected), 120)}, got {shorten(str(got), 120)}; randomness must come from env.rng, "
        "time from env.runtime"
    )
