"""A task registry in Redis and in a dict: the dict alone does not have the tasks of other pods."""

from __future__ import annotations

from collections.abc import Iterator

from cases.common import Pod
from podrace import Call, Finding, PodEnv, Run, Scenario


class Broken(Pod):
    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.tasks: dict[str, str] = {}

    def submit(self, task: str) -> None:
        self.redis.set(self.key(f"task:{task}"), "submitted", ex=3600)
        self.tasks[task] = "submitted"

    def status(self, task: str) -> str:
        return self.tasks.get(task, "404")


class Mended(Broken):
    """Looks into Redis first."""

    def status(self, task: str) -> str:
        return self.text(f"task:{task}") or super().status(task)


def is_known(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "status" and call.value == "404":
            yield Finding("misreported", call.name, f"{call.actor} says 404 of a task that was submitted")


SCENARIO = Scenario(
    "task registry",
    lines={
        "A": [Call("submit", "submit", ("t1",)), Call("own status", "status", ("t1",))],
        "B": [Call("foreign status", "status", ("t1",), after=("submit",))],
    },
    checks=[is_known],
)
