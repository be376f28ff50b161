"""Pods as real processes whose every step is let go over the pipe: the inline fleet's twin for replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.processes import Fleet, NoAnswerError, PodSpec
from podrace.simulator.history.outcome import Result
from podrace.simulator.world.gates import Step

STEP_WITHIN_S = 10.0


class SteppedFleet(Fleet):
    """The pods of one schedule (see schedule.Fleet). `make_spec(name)` says how a pod is built."""

    kind = "processes"

    def __init__(self, make_spec: Callable[[str], PodSpec]) -> None:
        super().__init__([], on_event=lambda event: None)
        self._make_spec = make_spec
        self._steps: dict[str, Step] = {}
        self.done: list[tuple[Step, str, Any]] = []
        self.results: list[tuple[int, Result]] = []
        self.died: list[tuple[str, str]] = []

    def steps(self) -> list[Step]:
        """The steps at which actors stand, in the order in which the actors began."""
        return list(self._steps.values())

    def step_of(self, actor: str) -> Step | None:
        """Where one actor stands; None for one that has ended or hangs."""
        return self._steps.get(actor)

    def start(self, actor: str, call: int, method: str, args: tuple[Any, ...]) -> None:
        """Begin a call of a pod's method as an actor, up to its first gate."""
        pod = actor.partition(".")[0]
        if pod not in self.names:
            self.add(self._make_spec(pod))
            self.await_ready(pod)
        self.send(pod, "call", call, actor, method, args)
        self._until_quiet(pod)

    def look(self, but: str) -> bytes | None:
        """Nothing is known here of what a pod's memory holds."""
        return None

    def let_go(self, actor: str, action: str) -> None:
        """Let an actor take its step, on to where it stops next."""
        pod = actor.partition(".")[0]
        self.send(pod, "go", actor, action)
        self._until_quiet(pod)

    def kill(self, pod: str) -> None:
        """SIGKILL."""
        if pod in self.names:
            super().kill(pod)
        self._steps = {actor: step for actor, step in self._steps.items() if step.pod != pod}

    def advance(self, pod: str, seconds: float) -> None:
        """Let a pod's clock run on."""
        if pod in self.names:
            self.send(pod, "advance", seconds)

    def _until_quiet(self, pod: str) -> None:
        """Take a pod's messages until all of its actors stand at gates, or have ended."""
        while True:
            try:
                kind, *rest = self.receive(pod, within_s=STEP_WITHIN_S)
            except NoAnswerError:
                raise TargetError(
                    f"pod {pod} did not come back within {STEP_WITHIN_S:g} s: it blocks, or loops, outside its "
                    "environment"
                ) from None
            if kind == "took":
                step, action, reply = rest
                self.done.append((Step(*step), action, reply))
            elif kind == "returned":
                self.results.append((rest[0], rest[1]))
            elif kind == "died":
                self.died.append((rest[0], rest[1]))
            elif kind == "quiet":
                self._stand(pod, {actor: Step(actor, kind, args) for actor, kind, args in rest[0]})
                return

    def _stand(self, pod: str, stands: dict[str, Step]) -> None:
        kept = {
            actor: stands.get(actor, step) for actor, step in self._steps.items() if step.pod != pod or actor in stands
        }
        self._steps = kept | stands
