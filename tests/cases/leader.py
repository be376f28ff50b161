"""A leader that extends its lease and then enqueues the work of a period."""

from __future__ import annotations

from collections.abc import Iterator

from cases.common import Pod
from podrace import Call, Finding, Run, Scenario, TimePasses

TICK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], 3000)
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""


class Broken(Pod):
    """Extends the lease without asking whose it is."""

    def lead(self) -> str:
        if not self.redis.set(self.key("leader"), self.env.name, nx=True, px=3000):
            return "follower"
        for _ in range(2):
            if not self.tick():
                return "deposed"
            self.env.runtime.sleep(1)
        return "led"

    def tick(self) -> bool:
        if not self.redis.pexpire(self.key("leader"), 3000):
            return False
        self.redis.rpush(self.key("work"), self.env.name)
        return True


class Mended(Broken):
    """Extends only its own lease, and enqueues in the same script; a leader that fails stops."""

    def tick(self) -> bool:
        return bool(self.redis.eval(TICK, 2, self.key("leader"), self.key("work"), self.env.name))


def one_leader_after_the_other(run: Run) -> Iterator[Finding]:
    """A leader enqueues nothing more once another one has enqueued."""
    work = run.redis.get("work", [])
    changes = [name for place, name in enumerate(work) if place == 0 or work[place - 1] != name]
    for name in dict.fromkeys(changes):
        if changes.count(name) > 1:
            yield Finding("duplicated", name, f"{name} went on after another had taken over: {work}")


SCENARIO = Scenario(
    "leader of periodic work",
    lines={name: [Call(f"lead {name}", "lead")] for name in "AB"},
    faults=[TimePasses()],
    checks=[one_leader_after_the_other],
    keeps=["work"],
)
