"""Pods as real processes whose every step is let go over the pipe: the inline fleet's twin for replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.pipes import as_error_sent
from podrace.simulator.fleets.processes import Fleet, NoAnswerError, PodSpec
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
        super().__init__([], on_event=lambda event: None)
        self._make_spec = make_spec
        self._call_service = call_service
        self._steps: dict[str, Step] = {}
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
        pod = pod_of(actor)
        self.send(pod, "ready?", actor)
        while True:
            kind, *rest = self.receive(pod, within_s=STEP_WITHIN_S)
            if kind == "ready!":
                return bool(rest[0])
            self._take_note(pod, kind, rest)

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        pod = pod_of(actor)
        if pod not in self.names:
            number = self._incarnations[pod] = self._incarnations.get(pod, 0) + 1
            self.add(self._make_spec(pod, number))
            self.await_ready(pod)
            self.send(pod, "clock", self._now_us)
        self.send(pod, "call", call, actor, method, args)
        self._until_quiet(pod)

    def let_go(self, actor: str, action: str, answer: tuple[Any] | None = None, *, hears_later: bool = False) -> None:
        pod = pod_of(actor)
        self.send(pod, "go", actor, action, answer, hears_later)
        self._until_quiet(pod)

    def kill(self, pod: str) -> None:
        """SIGKILL."""
        if pod in self.names:
            super().kill(pod)
        self._steps = {actor: step for actor, step in self._steps.items() if step.pod != pod}

    def can_cancel(self, actor: str) -> bool:
        raise AssertionError("on processes a schedule that was found is repeated")

    def cancel(self, actor: str) -> None:
        pod = pod_of(actor)
        self.send(pod, "cancel", actor)
        self._until_quiet(pod)

    def set_clock(self, now_us: int) -> None:
        self._now_us = now_us
        for pod in self.names:
            self.send(pod, "clock", now_us)

    def _until_quiet(self, pod: str) -> None:
        """Take a pod's messages until all of its actors stand at gates, or have ended."""
        self.asked_time = True  # pods in processes do not tell
        while True:
            try:
                kind, *rest = self.receive(pod, within_s=STEP_WITHIN_S)
            except NoAnswerError:
                raise TargetError(
                    f"pod {pod} did not come back within {STEP_WITHIN_S:g} s: it blocks, or loops, outside its "
                    "environment"
                ) from None
            if self._take_note(pod, kind, rest):
                return

    def _take_note(self, pod: str, kind: str, rest: list[Any]) -> bool:
        """Take note of one message. Returns whether the pod is quiet now."""
        if kind == "took":
            step, action, reply = rest
            self.done.append((Step(*step), action, reply))
        elif kind == "returned":
            self.results.append((rest[0], Result(*rest[1:])))
        elif kind == "died":
            self.died.append((rest[0], rest[1]))
        elif kind == "service":
            number, *call = rest
            try:
                self.send(pod, "reply", number, True, self._call_service(pod, *call))
            except Exception as error:
                self.send(pod, "reply", number, False, as_error_sent(error))
        elif kind == "quiet":
            self._stand(pod, {actor: Step(actor, kind, args) for actor, kind, args in rest[0]})
            return True
        return False

    def _stand(self, pod: str, stands: dict[str, Step]) -> None:
        kept = {
            actor: stands.get(actor, step) for actor, step in self._steps.items() if step.pod != pod or actor in stands
        }
        self._steps = kept | stands
