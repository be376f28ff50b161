"""A scenario's lines of calls in one run: which are to come, which are under way, and what became of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from podrace.simulator.history.outcome import Result
from podrace.simulator.judge.run import CallRecord
from podrace.simulator.scenarios.model import Call, Ref, Workload
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.steps import Step, as_sent, pod_of

MOST_INSISTED = 5
INSISTS_AFTER_US = US_PER_S


class Lines:
    """The lines by actor. A call's number is its place in `calls`."""

    def __init__(self, lines: Mapping[str, Sequence[Call]], workload: Workload) -> None:
        self.calls: list[CallRecord] = []
        """Every call that has begun."""
        self.ended: set[str] = set()
        """The names of the calls that are not made again."""
        self._workload = workload
        self._coming = {actor: list(calls) for actor, calls in lines.items() if calls}
        """By actor, its calls, the one under way included; none of those whose calls are over."""
        self._busy: dict[str, int] = {}
        self._insists: dict[str, tuple[int, int]] = {}
        """By actor whose call is to be made again: how often it was made, and when it is due."""
        self._values: dict[str, Any] = {}

    def add(self, actor: str, call: Call) -> None:
        """Put a call on a line of its own."""
        self._coming[actor] = [call]

    def next(self, actor: str) -> Call:
        """The call of a line that is under way or comes next."""
        return self._coming[actor][0]

    def due(self, now_us: int, dead: set[str]) -> list[Step]:
        """The calls that may begin now, as steps."""
        found = []
        for actor, calls in self._coming.items():
            if actor in self._busy or pod_of(actor) in dead:
                continue
            if self.ended.issuperset(calls[0].after) and (
                actor not in self._insists or self._insists[actor][1] <= now_us
            ):
                found.append(Step(actor, "call", (calls[0].name,)))
        return found

    def deadlines(self) -> list[int]:
        """When the calls that are to be made again are due."""
        return [due_us for _, due_us in self._insists.values()]

    def is_open(self) -> bool:
        """Whether a call is under way, or to be made again."""
        return bool(self._busy or self._insists)

    def under_way(self, pod: str | None = None) -> list[tuple[str, int]]:
        """The actors that are making a call, with its number; if a pod is named, only those of that pod."""
        return [(actor, number) for actor, number in self._busy.items() if pod is None or pod_of(actor) == pod]

    def is_shared(self, actor: str) -> bool:
        """Whether another line of the actor's pod has calls that are not over."""
        pod = pod_of(actor)
        return any(line != actor and pod_of(line) == pod for line in self._coming)

    def begin(self, actor: str, place: int) -> tuple[int, Call, tuple[Any, ...]]:
        """Begin a line's next call, at that place in the history. Returns its number and what the pod is given."""
        call, number = self.next(actor), len(self.calls)
        args = tuple(self._value(arg) for arg in call.args)
        self.calls.append(CallRecord(call.name, actor, call.method, call.args, began=place))
        self._busy[actor] = number
        return number, call, args

    def forget(self, actor: str) -> None:
        """Leave the call of an actor open for ever: its pod is dead."""
        del self._busy[actor]

    def end(self, number: int, result: Result, place: int, now_us: int, *, may_insist: bool) -> None:
        """End a call, at that place in the history. One that insists, and may, is made again where nobody can know."""
        call = self.calls[number]
        actor = call.actor
        self._busy.pop(actor, None)
        self.calls[number] = CallRecord(
            call.name, actor, call.method, call.args, call.began, place, result.type, result.value, result.error or ""
        )
        tries = self._insists.pop(actor, (0, 0))[0] + 1
        if self.next(actor).insist and may_insist and result.type == "info" and tries < MOST_INSISTED:
            self._insists[actor] = (tries, now_us + INSISTS_AFTER_US)
            return
        if len(self._coming[actor]) > 1:
            del self._coming[actor][0]
        else:
            del self._coming[actor]
        self.ended.add(call.name)
        if result.type == "ok":
            self._values[call.name] = result.value

    def _value(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            value = self._values.get(arg.call)
            if arg.index is not None:
                try:
                    value = value[arg.index]  # type: ignore[index]
                except (TypeError, LookupError):
                    value = None
            return as_sent(value)
        if isinstance(arg, tuple | list):
            return [self._value(item) for item in arg]
        return self._workload.argument(arg)
