"""What a fault may ask of a run so far (see faults.Scene)."""

from __future__ import annotations

from collections import defaultdict

from podrace.simulator.fleets.protocol import Fleet
from podrace.simulator.search.lines import Lines
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.search.standing import Standing
from podrace.simulator.world.steps import Step


class SoFar:
    """The run so far. `note` is told what pods do."""

    def __init__(self, side: ServerSide, fleet: Fleet, lines: Lines, standing: Standing) -> None:
        self.prefix = side.prefix
        self._side = side
        self._fleet = fleet
        self._lines = lines
        self._standing = standing
        self._done: defaultdict[str, set[str]] = defaultdict(set)

    def note(self, pod: str, *what: str) -> None:
        self._done[pod].update(what)

    def has_done(self, what: str, pod: str) -> bool:
        return what in self._done[pod]

    def names(self, step: Step) -> set[str]:
        return self._side.names(self._side.parts(step))

    def is_calling(self, method: str, pod: str) -> bool:
        return any(self._lines.calls[number].method == method for _, number in self._lines.under_way(pod))

    def cancellable(self, pod: str) -> list[str]:
        return sorted(actor for actor, _ in self._lines.under_way(pod) if self._fleet.can_cancel(actor))

    def can_be_damaged(self, key: str) -> bool:
        return key.startswith(self.prefix) and self._side.probe.damage(key, only_ask=True)

    def moments(self) -> list[tuple[int, bool]]:
        clock = self._side.clock
        keys = set(clock.deadlines.values())
        return [(due - clock.now_us, due in keys) for due in clock.next(self._standing.deadlines())]
