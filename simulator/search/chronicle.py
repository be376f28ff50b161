"""Writes what happens in one run into its history (see history.events)."""

from __future__ import annotations

from typing import Any

from podrace.simulator.history.events import Event
from podrace.simulator.history.outcome import Result
from podrace.simulator.scenarios.model import Call, Workload
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.steps import DROP_REPLY, GO, Failed, Step, plain_reply


class Chronicle:
    """`events` is the history so far."""

    def __init__(self, workload: Workload) -> None:
        self.events: list[Event] = []
        self._workload = workload
        self._said: dict[str, str] = {}
        """By actor, the call of a service that it is taking, in words."""

    def invoke(self, actor: str, number: int, call: Call) -> None:
        told = {"name": call.name, "method": call.method, "args": call.args}
        self.events.append({"type": "invoke", "actor": actor, "call": number, **told})

    def ended(self, actor: str, number: int, result: Result) -> None:
        """An `ok`, `fail` or `info`."""
        told = {"result": result.value} if result.type == "ok" else {"error": result.error}
        self.events.append({"type": result.type, "actor": actor, "call": number, **told})

    def asks(self, step: Step) -> None:
        """Put the call of a service into words, while what it is given is still what it was."""
        self._said[step.actor] = self._workload.says(*step.args)

    def step(self, step: Step, action: str, reply: Any) -> None:
        told: Event = {
            "type": "step",
            "actor": step.actor,
            "step": step,
            "action": action,
            "reply": reply if type(reply) in _COMPARABLE else _comparable(reply),
        }
        if step.kind == "service":
            failed = action not in (GO, DROP_REPLY) or isinstance(reply, BaseException | Failed)
            told |= {"says": self._said[step.actor], "failed": failed}
        self.events.append(told)

    def died(self, actor: str, error: str) -> None:
        self.events.append({"type": "died", "actor": actor, "error": error})

    def fault(self, actor: str, text: str) -> None:
        self.events.append({"type": "fault", "actor": actor, "what": text})

    def time(self, passes_us: int, gone: list[str], *, fault: bool) -> None:
        self.events.append({"type": "time", "passes_s": passes_us / US_PER_S, "gone": gone, "fault": fault})

    def rest(self, stage: str) -> None:
        self.events.append({"type": "rest", "stage": stage})


_COMPARABLE = frozenset({type(None), bool, int, str, bytes})


def _comparable(reply: Any) -> Any:
    """A reply with its errors as text, those among the replies of a transaction too: so it can be compared."""
    if isinstance(reply, BaseException):
        return plain_reply(reply)
    return [_comparable(part) for part in reply] if type(reply) is list else reply
