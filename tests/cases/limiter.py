"""Two visits in each window: the counter gets its time to live in a second command, before which the pod may die."""

from __future__ import annotations

from collections.abc import Iterator

from cases.common import Pod
from podrace import Call, Finding, Kill, LoseConnection, Run, Scenario

LIMIT = 2
WINDOW_S = 10
COUNT = """
local count = redis.call('INCR', KEYS[1])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return count
"""


class Broken(Pod):
    """INCR, and after the first one EXPIRE."""

    def visit(self) -> bool:
        return self.count() <= LIMIT

    def visit_later(self) -> bool:
        self.env.runtime.sleep(2 * WINDOW_S)
        return self.visit()

    def count(self) -> int:
        count = int(self.redis.incr(self.key("visits")))
        if count == 1:
            self.redis.expire(self.key("visits"), WINDOW_S)
        return count


class Mended(Broken):
    """One script; a counter found without a time to live gets one."""

    def count(self) -> int:
        return int(self.redis.eval(COUNT, 1, self.key("visits"), WINDOW_S))


def lets_pass_again(run: Run) -> Iterator[Finding]:
    """A visitor after the end of the window is let through."""
    for call in run.calls:
        if call.method == "visit_later" and call.value is False:
            yield Finding("stuck", call.name, f"{call.name} is refused, though the window is over")


_LINES = {
    "A": [Call("first", "visit")],
    "B": [Call(f"later {number}", "visit_later") for number in range(3)],
}
KILLED = Scenario("limiter, killed between the two", _LINES, [Kill(pods=frozenset("A"))], checks=[lets_pass_again])
LOST = Scenario(
    "limiter, EXPIRE lost",
    _LINES,
    [LoseConnection(pods=frozenset("A"), actions=("drop-request",))],
    checks=[lets_pass_again],
)
