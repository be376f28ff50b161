"""The dependants of a job: one that registers while the job ends must not wait for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from cases.common import Pod
from podrace import Call, Finding, Run, Scenario


class Broken(Pod):
    """Dependants are popped and enqueued before the status says finished."""

    def finish(self) -> None:
        while (dependant := self.redis.lpop(self.key("dependants"))) is not None:
            self.redis.rpush(self.key("queue"), dependant)
        self.redis.set(self.key("status"), "finished")

    def register(self, job: str) -> None:
        where = "queue" if self.text("status") == "finished" else "dependants"
        self.redis.rpush(self.key(where), job)


class Mended(Broken):
    """Changes status and dependants in one transaction; registering watches the status."""

    def finish(self) -> None:
        with self.redis.pipeline() as pipe:
            pipe.set(self.key("status"), "finished")
            pipe.lrange(self.key("dependants"), 0, -1)
            pipe.delete(self.key("dependants"))
            _, dependants, _ = pipe.execute()
        for dependant in dependants:
            self.redis.rpush(self.key("queue"), dependant)

    def register(self, job: str) -> None:
        registered = False
        while not registered:
            with self.redis.pipeline() as pipe:
                pipe.watch(self.key("status"))
                status: Any = pipe.get(self.key("status"))
                pipe.multi()
                pipe.rpush(self.key("queue" if status == b"finished" else "dependants"), job)
                try:
                    pipe.execute()
                    registered = True
                except redis.WatchError:
                    pass


def nobody_waits_for_ever(run: Run) -> Iterator[Finding]:
    for job in run.redis.get("dependants", []):
        yield Finding("stuck", job, f"{job} waits for a job that has finished")


SCENARIO = Scenario(
    "dependants of a job",
    lines={"A": [Call("finish", "finish")], "B": [Call("register", "register", ("j2",))]},
    checks=[nobody_waits_for_ever],
    keeps=["status", "queue"],
)
