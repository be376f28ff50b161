"""A chat's running tasks, at most one at a time: only the owner's callback removes a task from the list."""

from __future__ import annotations

from collections.abc import Iterator

from cases.common import Effects, Pod
from podrace import Call, Finding, Kill, Run, Scenario

WORK_S = 20
LIVENESS_S = 30


class Broken(Pod):
    """Keys without a time to live: after a kill the chat is busy for ever."""

    def start(self, task: str) -> str:
        if self.running():
            return "busy"
        self.begin(task)
        for _ in range(2):
            self.env.runtime.sleep(WORK_S)
            self.renew(task)
        self.env.ledger.put(task)
        self.drop(task)
        return "done"

    def start_later(self, task: str) -> str:
        self.env.runtime.sleep(5 * WORK_S)
        return self.start(task)

    def begin(self, task: str) -> None:
        self.redis.sadd(self.key("chat:tasks"), task)
        self.redis.hset(self.key("tasks"), task, self.env.name)

    def renew(self, task: str) -> None:
        """Does nothing: no key shows that the owner is alive."""

    def drop(self, task: str) -> None:
        self.redis.hdel(self.key("tasks"), task)
        self.redis.srem(self.key("chat:tasks"), task)

    def running(self) -> list[str]:
        return sorted(task.decode() for task in self.redis.smembers(self.key("chat:tasks")))


class Mended(Broken):
    """A liveness key that the owner renews; readers drop ids without one."""

    def begin(self, task: str) -> None:
        self.redis.set(self.key(f"alive:{task}"), 1, ex=LIVENESS_S)
        super().begin(task)

    def renew(self, task: str) -> None:
        self.redis.expire(self.key(f"alive:{task}"), LIVENESS_S)

    def drop(self, task: str) -> None:
        super().drop(task)
        self.redis.delete(self.key(f"alive:{task}"))

    def running(self) -> list[str]:
        alive = []
        for task in super().running():
            if self.redis.exists(self.key(f"alive:{task}")):
                alive.append(task)
            else:
                self.drop(task)
        return alive


def is_let_in(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "start_later" and call.value == "busy":
            yield Finding("stuck", call.name, f"{call.name} is refused, though nobody works any more")


SCENARIO = Scenario(
    "running tasks of a chat",
    lines={"A": [Call("first", "start", ("t1",))], "B": [Call("later", "start_later", ("t2",))]},
    faults=[Kill(pods=frozenset("A"))],
    workload=Effects(),
    checks=[is_let_in],
)
