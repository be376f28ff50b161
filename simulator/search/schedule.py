"""What a schedule is made of: decisions, and who takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from podrace.simulator.scenarios.faults import CANCEL, CLOCK, KILL
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
