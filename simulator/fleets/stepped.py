"""Pods as real processes whose every step is let go over the pipe: the inline fleet's twin for replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.pipes import as_error_sent
from podrace.simulator.fleets.processes import Fleet, Handle, NoAnswerError, PodSpec
from podrace.simulator.history.outcome import Result
from podrace.simulator.world.clock import EPOCH_US
from podrace.simulator.world.steps import Step, pod_of

STEP_WITHIN_S = 10.0

CallService = Callable[[str, str, str, tuple[Any, ...], Mapping[str, Any]], Any]
"""(pod, service, method, arguments, named arguments): what the service returns, or raises."""


class SteppedFleet(Fleet):
    """The pods of one schedule (see protocol.Fleet). `make_spec(name, incarnation)` says how a pod is built."""

    kind = "processes"

    def __init__(self, make_spec: Callable[[str, int], PodSpec], call_service: CallService) -> None:
        super().__init__([])
        self._make_spec = make_spec
        self._call_service = call_service
        self._steps: dict[str, Step] = {}
        self._quiet: set[str] = set()
        """Pods whose actors all stand at gates, or have ended."""
        self._readable: list[bool] = []
        """The answer to whether something can be read, once there is one."""
        self._now_us = EPOCH_US
        self.asked_time = True
        self._incarnations: dict[str, int] = {}
        self.done: list[tuple[Step, str, Any]] = []
        self.results: list[tuple[int, Result]] = []
        self.died: list[tuple[str, str]] = []

    def steps(self) -> list[Step]:
        return list(self._steps.values())

    def step_of(self, actor: str) -> Step | None:
        return self._steps.get(actor)

    def is_ready(self, actor: str) -> bool:
        self._readable.clear()
        self.send(pod_of(actor), "ready?", actor)
        self._hear_until(pod_of(actor), lambda: self._readable, within_s=STEP_WITHIN_S)
        return self._readable[0]

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        pod = pod_of(actor)
        if pod not in self.names:
            number = self._incarnations[pod] = self._incarnations.get(pod, 0) + 1
            self.add(self._make_spec(pod, number))
            self.await_ready(pod)
            self.send(pod, "clock", self._now_us)
        self._move(pod, "call", call, actor, method, args)

    def let_go(self, actor: str, action: str, answer: tuple[Any] | None = None, *, hears_later: bool = False) -> None:
        self._move(pod_of(actor), "go", actor, action, answer, hears_later)

    def kill(self, pod: str) -> None:
        """SIGKILL."""
        if pod in self.names:
            super().kill(pod)
        self._steps = {actor: step for actor, step in self._steps.items() if step.pod != pod}

    def can_cancel(self, actor: str) -> bool:
        raise AssertionError("on processes a schedule that was found is repeated")

    def cancel(self, actor: str) -> None:
        self._move(pod_of(actor), "cancel", actor)

    def set_clock(self, now_us: int) -> None:
        self._now_us = now_us
        for pod in self.names:
            self.send(pod, "clock", now_us)

    def _move(self, pod: str, *message: Any) -> None:
        """Tell a pod something that lets an actor go on, and hear it until all of its actors stand again."""
        self.asked_time = True  # pods in processes do not tell
        self._quiet.discard(pod)
        self.send(pod, *message)
        try:
            self._hear_until(pod, lambda: pod in self._quiet, within_s=STEP_WITHIN_S)
        except NoAnswerError:
            raise TargetError(
                f"pod {pod} did not come back within {STEP_WITHIN_S:g} s: it blocks, or loops, outside its environment"
            ) from None

    def _heard(self, handle: Handle, message: tuple[Any, ...]) -> None:
        pod, (kind, *rest) = handle.spec.name, message
        if kind == "took":
            step, action, reply = rest
            self.done.append((Step(*step), action, reply))
        elif kind == "result":
            self.results.append((rest[0], Result(*rest[1:])))
        elif kind == "died":
            self.died.append((rest[0], rest[1]))
        elif kind == "service":
            number, *call = rest
            try:
                self.send(pod, "reply", number, True, self._call_service(pod, *call))
            except Exception as error:
                self.send(pod, "reply", number, False, as_error_sent(error))
        elif kind == "ready!":
            self._readable += rest
        elif kind == "quiet":
            stands = {actor: Step(actor, kind, args) for actor, kind, args in rest[0]}
            kept = {actor: step for actor, step in self._steps.items() if step.pod != pod or actor in stands}
            self._steps = kept | stands
            self._quiet.add(pod)
        else:
            super()._heard(handle, message)
