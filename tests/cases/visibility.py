"""A queue with a visibility timeout: a message held for too long is requeued, as its holder looks dead."""

from __future__ import annotations

from cases.common import Effects, Pod, all_done, never_twice
from podrace import Call, Scenario

TIMEOUT_S = 60
WORK_S = 90
PUSH_BACK = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('RPUSH', KEYS[3], ARGV[1])
end
return 1
"""


class Broken(Pod):
    """Notes when a message was taken, but never that it is still being worked on."""

    def put(self, message: str) -> None:
        self.redis.rpush(self.key("queue"), message)

    def work(self) -> str | None:
        found = self.redis.lpop(self.key("queue"))
        if found is None:
            return None
        message: str = found.decode()
        self.redis.hset(self.key("unacked"), message, self.env.name)
        self.redis.zadd(self.key("index"), {message: self.env.runtime.now()})
        self.do(message)
        self.env.ledger.put(message)
        self.redis.zrem(self.key("index"), message)
        self.redis.hdel(self.key("unacked"), message)
        return message

    def do(self, message: str) -> None:
        self.env.runtime.sleep(WORK_S)

    def sweep(self) -> None:
        oldest = self.env.runtime.now() - TIMEOUT_S
        for message in self.redis.zrangebyscore(self.key("index"), "-inf", oldest):
            self.redis.eval(PUSH_BACK, 3, self.key("index"), self.key("unacked"), self.key("queue"), message)

    def take_over(self) -> str | None:
        """Another worker, which checks after a while whether a message was abandoned."""
        self.env.runtime.sleep(TIMEOUT_S + 10)
        self.sweep()
        return self.work()


class Mended(Broken):
    """The holder renews the time stamp while it works."""

    def do(self, message: str) -> None:
        for _ in range(3):
            self.env.runtime.sleep(WORK_S / 3)
            self.redis.zadd(self.key("index"), {message: self.env.runtime.now()}, xx=True)


SCENARIO = Scenario(
    "queue with a visibility timeout",
    lines={
        "A": [Call("put", "put", ("m1",)), Call("work", "work")],
        "B": [Call("take over", "take_over", after=("put",))],
    },
    workload=Effects(),
    checks=[never_twice, all_done("m1")],
)
