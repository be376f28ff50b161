"""A lock that its owner releases: between the check of its owner and the DEL it may become another's."""

from __future__ import annotations

from cases.common import Effects, Pod, one_inside
from podrace import Call, Scenario, TimePasses

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Broken(Pod):
    """WATCH, GET, DEL: without MULTI the WATCH watches nothing."""

    def work(self) -> str:
        if not self.redis.set(self.key("lock"), self.env.name, nx=True, px=1000):
            return "busy"
        self.env.ledger.enter(self.env.name)
        self.env.ledger.leave(self.env.name)
        self.release()
        return "done"

    def release(self) -> None:
        with self.redis.pipeline() as pipe:
            pipe.watch(self.key("lock"))
            if pipe.get(self.key("lock")) == self.env.name.encode():
                pipe.delete(self.key("lock"))


class Mended(Broken):
    """One script deletes the lock if it still belongs to the pod."""

    def release(self) -> None:
        self.redis.eval(RELEASE, 1, self.key("lock"), self.env.name)


SCENARIO = Scenario(
    "lock released by its owner",
    lines={
        "A": [Call("work A", "work")],
        "B": [Call("work B", "work")],
        "C": [Call("work C", "work", after=("work A",))],
    },
    faults=[TimePasses(pods=frozenset("A"), since="ledger.leave")],
    workload=Effects(real_time=frozenset()),  # the check looks only at the ledger
    checks=[one_inside],
)
