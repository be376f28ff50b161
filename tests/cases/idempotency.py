"""An idempotency key: look for it, do the work, then write it. Two at once both find nothing."""

from __future__ import annotations

from cases.common import Effects, Pod, never_twice
from podrace import Call, Scenario

DAY_S = 24 * 3600


class Broken(Pod):
    def pay(self, request: str) -> str:
        known = self.text(f"result:{request}")
        if known is not None:
            return known
        self.env.ledger.put(f"charge {request}")
        self.redis.set(self.key(f"result:{request}"), "paid", ex=DAY_S)
        return "paid"


class Mended(Broken):
    """A caller that does not get the marker gets 409; the marker outlives the run but not for ever."""

    def pay(self, request: str) -> str:
        known = self.text(f"result:{request}")
        if known is not None:
            return known
        if not self.redis.set(self.key(f"processing:{request}"), 1, nx=True, ex=DAY_S):
            return "409"
        return super().pay(request)


SCENARIO = Scenario(
    "idempotency key",
    lines={name: [Call(f"pay {name}", "pay", ("r1",))] for name in "AB"},
    workload=Effects(),
    checks=[never_twice],
)
