"""Where the actors of a run stand: which steps can be taken, when others can, and which never."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from podrace.simulator.fleets.protocol import Fleet
from podrace.simulator.judge.run import OPEN
from podrace.simulator.scenarios.model import Workload
from podrace.simulator.search.lines import Lines
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.footprints import argv_of
from podrace.simulator.world.steps import Step, is_woken

MOST_PASSES = 8
"""So often in a row time passes by itself without a call's begin or end; what is left then are endless loops."""

MOST_PASSES_AFTER = 2
"""So often after the last call, so that what pods do in the background can be struck too; heartbeats never end."""

_BY_ACTOR = itemgetter(0)


class Standing:
    """The steps before which the actors of one run stand, and the calls that clients are about to make."""

    def __init__(
        self, fleet: Fleet, lines: Lines, side: ServerSide, workload: Workload, services: Mapping[str, Any]
    ) -> None:
        self._fleet = fleet
        self._lines = lines
        self._side = side
        self._workload = workload
        self._services = services
        self.dead: set[str] = set()
        """Pods that were killed for good."""
        self.unsettled = False
        """Whether the server may still be about to send what a command brings to others than its sender."""

    def enabled(self) -> list[Step]:
        """The steps that can be taken now, by actor, so that equivalent histories list them alike."""
        now_us = self._side.clock.now_us
        steps = []
        for step in self._fleet.steps():
            kind = step.kind
            if kind == "timer":
                if step.args[0] > now_us and not is_woken(step):
                    continue
            elif kind == "lock":
                if not step.args[0].free:
                    continue
            elif kind == "receive":
                due = step.args[1]
                if self.unsettled:  # what a command has sent to others has reached them after that, or never will
                    self._side.probe.settle()
                    self.unsettled = False
                if (due is None or due > now_us) and not self._fleet.is_ready(step.actor):
                    continue
            steps.append(step)
        steps += self._lines.due(now_us, self.dead)
        if len(steps) > 1:
            steps.sort(key=_BY_ACTOR)
        return steps

    def waiting(self, enabled: Sequence[Step]) -> list[Step]:
        """The steps before which actors stand and cannot go on by themselves."""
        actors = {step.actor for step in enabled}
        return sorted((step for step in self._fleet.steps() if step.actor not in actors), key=_BY_ACTOR)

    def waits(self, enabled: Sequence[Step]) -> list[Step]:
        """The waits for something to read that cannot go on by themselves: their connections can be lost too."""
        if not any(step.kind == "receive" for step in self._fleet.steps()):
            return []
        return [step for step in self.waiting(enabled) if step.kind == "receive"]

    def deadlines(self) -> list[int]:
        """When actors, services, and entries of streams may go on."""
        found = self._lines.deadlines()
        found += [round(moment_s * US_PER_S) for moment_s in self._workload.moments(self._services)]
        steps = self._fleet.steps()
        found += self._side.pending.deadlines(argv_of(step.args) for step in steps if step.kind == "redis")
        return found + [due for step in steps if (due := _due(step)) is not None]

    def next_moment(self, passes: int) -> int | None:
        """Until when time passes by itself where nobody can go on, in microseconds; None where it does not.

        It passes for a client's call, under way or to come, and then for what pods do besides calls. `passes`: so
        often it has done so in a row.
        """
        if self._lines.is_open():
            moments = self._side.clock.next(self.deadlines()) if passes < MOST_PASSES else []
            return moments[0] if moments else None
        if passes >= MOST_PASSES_AFTER:
            return None
        return min((due for step in self._fleet.steps() if (due := _due(step)) is not None), default=None)

    def for_ever(self) -> dict[str, str]:
        """For each call that can never return, what it waits for; none for one that only waits for time."""
        found = {}
        for actor, number in self._lines.under_way():
            call = self._lines.calls[number]
            step = self._fleet.step_of(actor)
            if call.type != OPEN or step is None or step.kind == "timer":
                continue
            if step.kind == "lock":
                holder = step.args[0].holder
                there = self._fleet.step_of(holder) if holder else None
                of_it = f", which waits for {_waits_for(there)}" if there is not None else ""
                found[call.name] = f"a lock that {holder or 'nobody'} holds{of_it}"
            elif step.kind == "receive" and step.args[1] is None:
                found[call.name] = _waits_for(step)
        return found


def _due(step: Step) -> int | None:
    """When an actor goes on that stands before this step; None where time alone does not wake it."""
    if step.kind == "timer":
        return int(step.args[0])
    return step.args[1] if step.kind == "receive" else None


def _waits_for(step: Step) -> str:
    if step.kind == "lock":
        return "a lock" + (f" that {step.args[0].holder} holds" if step.args[0].holder else "")
    if step.kind == "receive":
        return str(step.args[0]) + ", which nobody sends"
    return f"its {step.kind}"
