"""A counter that gives out tickets: if an INCR loses its reply it is sent again, and one number is lost."""

from __future__ import annotations

from cases.common import Effects, Pod, all_return
from podrace import Call, LoseConnection, Scenario

TAKE = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return tonumber(known) end
local number = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], number)
return number
"""


class Broken(Pod):
    """INCR: redis-py sends it as INCRBY."""

    def turn(self, request: str) -> int:
        number = self.take(request)
        while int(self.text("served") or 0) < number - 1:
            self.env.runtime.sleep(1)
        self.env.ledger.put(request)
        self.redis.set(self.key("served"), number)
        self.redis.hdel(self.key("requests"), request)
        return number

    def take(self, request: str) -> int:
        return int(self.redis.incr(self.key("last")))


class Mended(Broken):
    """The script recognises a repeated request, and returns the same number."""

    def take(self, request: str) -> int:
        return int(self.redis.eval(TAKE, 2, self.key("requests"), self.key("last"), request))


SCENARIO = Scenario(
    "counter as ticket",
    lines={name: [Call(f"turn {name}", "turn", (f"r{name}",))] for name in "AB"},
    faults=[LoseConnection(actions=("drop-reply",), commands=frozenset({"INCRBY", "EVAL"}))],
    workload=Effects(),
    checks=[all_return],
    keeps=["last", "served"],
    retries=(1,),
)
