"""More protocols of several designs: for each a broken target and a mended one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import redis

from cases.common import Effects, Pod, all_done, entries, never_twice, one_inside
from podrace import Call, FailService, Finding, Kill, Run, Scenario, TimePasses


def both(method: str, *args: Any) -> dict[str, list[Call]]:
    """Lines in which two pods make the same call."""
    return {name: [Call(f"{method} {name}", method, args)] for name in "AB"}


def adds_up(run: Run) -> Iterator[Finding]:
    """Every `add` that succeeded is in the counter."""
    done = sum(call.method == "add" and call.type == "ok" for call in run.calls)
    held = int(run.redis.get("count", 0))
    if held < done:
        yield Finding("lost", "count", f"{done} times one was added, and the count is {held}")


# --- read, modify, write ---


class CounterBroken(Pod):
    def add(self) -> None:
        self.redis.set(self.key("count"), int(self.text("count") or 0) + 1)


class CounterMended(Pod):
    def add(self) -> None:
        self.redis.incr(self.key("count"))


COUNTER = Scenario("counter", both("add"), checks=[adds_up], keeps=["count"])

# --- compare and set in a registered script ---

SET_IF = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
SET_ANYHOW = "redis.call('SET', KEYS[1], ARGV[2]) return 1"


class ScriptBroken(Pod):
    """A script that sets the value without comparing the current one."""

    text_of_script = SET_ANYHOW

    def add(self) -> None:
        script = self.redis.register_script(self.text_of_script)
        while True:
            held = self.text("count") or "0"
            if script(keys=[self.key("count")], args=[held, int(held) + 1]):
                return


class ScriptMended(ScriptBroken):
    text_of_script = SET_IF


# --- redis-py's own lock, with its default token ---


class LibraryLockBroken(Pod):
    """Reads the value before it has the lock."""

    def add(self) -> None:
        held = int(self.text("count") or 0)
        with self.redis.lock(self.key("lock"), timeout=10):
            self.redis.set(self.key("count"), held + 1)


class LibraryLockMended(Pod):
    def add(self) -> None:
        with self.redis.lock(self.key("lock"), timeout=10):
            self.redis.set(self.key("count"), int(self.text("count") or 0) + 1)


# --- fields of a hash ---


class HashBroken(Pod):
    """Writes all fields back, even those that it does not change."""

    def put(self, field: str) -> None:
        held = self.redis.hgetall(self.key("profile"))
        self.redis.hset(self.key("profile"), mapping={"name": 0, "mail": 0} | {
            name.decode(): value for name, value in held.items()} | {field: 1})  # fmt: skip


class HashMended(Pod):
    def put(self, field: str) -> None:
        self.redis.hset(self.key("profile"), field, 1)


def fields_are_there(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        field = str(call.args[0])
        if call.type == "ok" and run.redis.get("profile", {}).get(field) != "1":
            yield Finding("lost", field, f"{field} was put, and is not in the profile")


HASH = Scenario(
    "fields of a hash",
    {"A": [Call("name", "put", ("name",))], "B": [Call("mail", "put", ("mail",))]},
    checks=[fields_are_there],
    keeps=["profile"],
)

# --- a name that only one pod may have ---


class NameBroken(Pod):
    def register(self, name: str) -> str:
        if self.redis.exists(self.key(f"name:{name}")):
            return "taken"
        self.redis.set(self.key(f"name:{name}"), self.env.name)
        return "registered"


class NameMended(Pod):
    def register(self, name: str) -> str:
        return "registered" if self.redis.setnx(self.key(f"name:{name}"), self.env.name) else "taken"


class LeaderBroken(Pod):
    """Reads first and then watches."""

    def register(self, name: str) -> str:
        key = self.key(f"name:{name}")
        with self.redis.pipeline() as pipe:
            held = self.redis.get(key)
            pipe.watch(key)
            return self.claim(pipe, key) if held is None else "taken"

    def claim(self, pipe: Any, key: str) -> str:
        pipe.multi()
        pipe.set(key, self.env.name)
        try:
            pipe.execute()
        except redis.WatchError:
            return "taken"
        return "registered"


class LeaderMended(LeaderBroken):
    def register(self, name: str) -> str:
        key = self.key(f"name:{name}")
        with self.redis.pipeline() as pipe:
            pipe.watch(key)
            return self.claim(pipe, key) if pipe.get(key) is None else "taken"


def one_has_it(run: Run) -> Iterator[Finding]:
    who = [call.actor for call in run.calls if call.value == "registered"]
    if len(who) > 1:
        yield Finding("duplicated", "name", f"{' and '.join(who)} both have the name")


NAME = Scenario("a name that one may have", both("register", "ann"), checks=[one_has_it], keeps=["name:*"])

# --- double-checked initialization ---


class InitBroken(Pod):
    """Does not look again once it has the lock."""

    def use(self) -> None:
        if not self.text("ready"):
            while not self.redis.set(self.key("lock"), 1, nx=True, px=60_000):
                self.env.runtime.sleep(1)
            self.init()
            self.redis.delete(self.key("lock"))

    def init(self) -> None:
        self.env.ledger.put("init")
        self.redis.set(self.key("ready"), 1)


class InitMended(InitBroken):
    def init(self) -> None:
        if not self.text("ready"):
            super().init()


INIT = Scenario("double-checked initialization", both("use"), workload=Effects(), checks=[never_twice], keeps=["ready"])

# --- cache beside a database ---


class Database:
    def __init__(self) -> None:
        self.value = "old"

    def read(self) -> str:
        return self.value

    def write(self, value: str) -> None:
        self.value = value


class WithDatabase(Effects):
    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ledger": {}, "database": Database()}

    def progress(self, services: Mapping[str, Any]) -> int:
        return 0


FILL = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[2], ARGV[2]) end return 1"


class CacheBroken(Pod):
    """Fills the cache with a value read before another pod wrote a new one and cleared the cache."""

    def read(self) -> str:
        held = self.text("cache")
        return held if held is not None else self.fill()

    def fill(self) -> str:
        value: str = self.env.database.read()
        self.redis.set(self.key("cache"), value)
        return value

    def write(self, value: str) -> None:
        self.env.database.write(value)
        self.redis.delete(self.key("cache"), self.key("filling"))


class CacheMended(CacheBroken):
    """Fills only if nobody has written since: a writer deletes the permission to fill."""

    def fill(self) -> str:
        self.redis.set(self.key("filling"), self.env.name, ex=60)
        value: str = self.env.database.read()
        self.redis.eval(FILL, 2, self.key("filling"), self.key("cache"), self.env.name, value)
        return value


def cache_is_fresh(run: Run) -> Iterator[Finding]:
    held, value = run.redis.get("cache"), run.services["database"].value
    if held not in (None, value):
        yield Finding("misreported", "cache", f"the cache says {held} for ever, the database {value}")


CACHE = Scenario(
    "cache beside a database",
    {"A": [Call("read", "read")], "B": [Call("write", "write", ("new",))]},
    workload=WithDatabase(),
    checks=[cache_is_fresh],
    keeps=["cache"],
)

# --- outbox ---


class Relayed(Effects):
    asks: ClassVar[tuple[str, ...]] = ("relay",)


class OutboxBroken(Pod):
    """Writes the order first and then the event."""

    def order(self, number: str) -> None:
        self.redis.sadd(self.key("orders"), number)
        self.redis.rpush(self.key("outbox"), number)

    def relay(self) -> None:
        while (number := self.redis.lindex(self.key("outbox"), 0)) is not None:
            self.env.ledger.put(number.decode())
            self.redis.lrem(self.key("outbox"), 1, number)


class OutboxMended(OutboxBroken):
    def order(self, number: str) -> None:
        with self.redis.pipeline() as pipe:
            pipe.sadd(self.key("orders"), number)
            pipe.rpush(self.key("outbox"), number)
            pipe.execute()


def orders_are_told(run: Run) -> Iterator[Finding]:
    for number in run.redis.get("orders", []):
        if number not in entries(run):
            yield Finding("lost", number, f"order {number} stands, and nobody was told")


OUTBOX = Scenario(
    "outbox",
    {"A": [Call("order", "order", ("o1",))], "B": [Call("other", "order", ("o2",))]},
    [Kill(pods=frozenset("A"))],
    workload=Relayed(),
    checks=[orders_are_told],
    keeps=["orders"],
)

# --- a transfer in two commands ---


class TransferBroken(Pod):
    def move(self, amount: int) -> None:
        self.redis.decrby(self.key("ann"), amount)
        self.redis.incrby(self.key("bob"), amount)


class TransferMended(Pod):
    def move(self, amount: int) -> None:
        with self.redis.pipeline() as pipe:
            pipe.decrby(self.key("ann"), amount)
            pipe.incrby(self.key("bob"), amount)
            pipe.execute()


def sum_is_zero(run: Run) -> Iterator[Finding]:
    total = int(run.redis.get("ann", 0)) + int(run.redis.get("bob", 0))
    if total:
        yield Finding("lost", "money", f"{-total} is on no account")


TRANSFER = Scenario("transfer", both("move", 5), [Kill()], checks=[sum_is_zero], keeps=["ann", "bob"])

# --- saga with compensation ---


class Bank:
    def __init__(self) -> None:
        self.paid: list[str] = []

    def pay(self, booking: str) -> None:
        self.paid.append(booking)

    def has_paid(self, booking: str) -> bool:
        return booking in self.paid


class WithBank(Effects):
    def services(self, now: Callable[[], float], given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"bank": Bank()}

    def progress(self, services: Mapping[str, Any]) -> int:
        return len(services["bank"].paid)


class SagaBroken(Pod):
    """Treats every error as `not paid` and gives the seat back."""

    def book(self, booking: str) -> str:
        self.redis.sadd(self.key("seats"), booking)
        try:
            self.env.bank.pay(booking)
        except ConnectionError:
            if not self.was_paid(booking):
                self.redis.srem(self.key("seats"), booking)
                return "cancelled"
        return "booked"

    def was_paid(self, booking: str) -> bool:
        return False


class SagaMended(SagaBroken):
    """Asks whether it was paid before it gives the seat back."""

    def was_paid(self, booking: str) -> bool:
        return bool(self.env.bank.has_paid(booking))


def who_has_paid_sits(run: Run) -> Iterator[Finding]:
    seats, paid = run.redis.get("seats", []), run.services["bank"].paid
    for booking in sorted({*seats, *paid}):
        if (booking in seats) != (booking in paid):
            yield Finding("lost", booking, f"{booking}: seat {booking in seats}, paid {booking in paid}")


SAGA = Scenario(
    "saga with compensation",
    {"A": [Call("book A", "book", ("b1",))], "B": [Call("book B", "book", ("b2",))]},
    [FailService(service="bank", actions=("fail", "drop-reply"))],
    workload=WithBank(),
    checks=[who_has_paid_sits],
    keeps=["seats"],
)

# --- semaphore in a sorted set, one permit ---

ACQUIRE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - 60)
if redis.call('ZCARD', KEYS[1]) >= 1 then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
"""


class SemaphoreBroken(Pod):
    def work(self) -> str:
        if not self.acquire():
            return "busy"
        self.env.ledger.enter(self.env.name)
        self.env.ledger.leave(self.env.name)
        self.redis.zrem(self.key("permits"), self.env.name)
        return "done"

    def acquire(self) -> bool:
        if self.redis.zcard(self.key("permits")) >= 1:
            return False
        self.redis.zadd(self.key("permits"), {self.env.name: self.env.runtime.now()})
        return True


class SemaphoreMended(SemaphoreBroken):
    def acquire(self) -> bool:
        now_s = int(self.env.runtime.now())
        return bool(self.redis.eval(ACQUIRE, 1, self.key("permits"), self.env.name, now_s))


SEMAPHORE = Scenario("semaphore", both("work"), workload=Effects(), checks=[one_inside])

# --- token bucket, one token ---

TAKE = """
local held = tonumber(redis.call('GET', KEYS[1]) or '1')
if held < 1 then return 0 end
redis.call('SET', KEYS[1], held - 1, 'EX', 10)
return 1
"""


class BucketBroken(Pod):
    def take(self) -> None:
        held = int(self.text("bucket") or 1)
        if held >= 1:
            self.redis.set(self.key("bucket"), held - 1, ex=10)
            self.env.ledger.put("let pass")


class BucketMended(Pod):
    def take(self) -> None:
        if self.redis.eval(TAKE, 1, self.key("bucket")):
            self.env.ledger.put("let pass")


BUCKET = Scenario("token bucket", both("take"), workload=Effects(), checks=[never_twice])

# --- delayed queue in a sorted set ---


class DelayedBroken(Pod):
    """Does not check whether it was the one that removed the job."""

    def put(self, job: str) -> None:
        self.redis.zadd(self.key("due"), {job: self.env.runtime.now() + 5})

    def work(self) -> None:
        self.env.runtime.sleep(6)
        for job in self.redis.zrangebyscore(self.key("due"), "-inf", self.env.runtime.now()):
            if self.is_mine(self.redis.zrem(self.key("due"), job)):
                self.env.ledger.put(job.decode())

    def is_mine(self, removed: int) -> bool:
        return True


class DelayedMended(DelayedBroken):
    def is_mine(self, removed: int) -> bool:
        return removed == 1


DELAYED = Scenario(
    "delayed queue",
    {"A": [Call("put", "put", ("j1",)), Call("work A", "work")], "B": [Call("work B", "work", after=("put",))]},
    workload=Effects(),
    checks=[never_twice, all_done("j1")],
)

# --- a worker that dies while it has a job ---


class Recovered(Effects):
    asks: ClassVar[tuple[str, ...]] = ("recover",)

    def is_done(self, run: Run) -> bool:
        return "j1" in entries(run)


class WorkerBroken(Pod):
    """BLPOP: a popped job is only in its memory."""

    def put(self, job: str) -> None:
        self.redis.rpush(self.key("jobs"), job)

    def work(self) -> None:
        _, job = self.redis.blpop(self.key("jobs"))
        self.env.ledger.put(job.decode())

    def recover(self) -> None:
        while (job := self.redis.lpop(self.key("jobs"))) is not None:
            self.env.ledger.put(job.decode())


class WorkerMended(WorkerBroken):
    """BLMOVE into a list of jobs in work; the jobs of a dead worker are put back from there."""

    def work(self) -> None:
        job = self.redis.blmove(self.key("jobs"), self.key("in work"), 0, "LEFT", "RIGHT")
        self.env.ledger.put(job.decode())
        self.redis.lrem(self.key("in work"), 1, job)

    def recover(self) -> None:
        """All calls have ended, so a job that is still in work belongs to a dead worker."""
        while self.redis.lmove(self.key("in work"), self.key("jobs"), "LEFT", "RIGHT"):
            pass
        super().recover()


WORKER = Scenario(
    "worker over a list",
    {"A": [Call("work", "work")], "B": [Call("put", "put", ("j1",))]},
    [Kill(pods=frozenset("A"))],
    workload=Recovered(),
    checks=[all_done("j1")],
)


class SetBroken(WorkerBroken):
    """SPOPs a job, then does it."""

    def put(self, job: str) -> None:
        self.redis.sadd(self.key("jobs"), job)

    def work(self) -> None:
        job = self.redis.spop(self.key("jobs"))
        if job is not None:
            self.env.ledger.put(job.decode())

    def recover(self) -> None:
        self.work()


class SetMended(SetBroken):
    """Reads a job, does it, then removes it."""

    def work(self) -> None:
        job = self.redis.srandmember(self.key("jobs"))
        if job is not None:
            self.env.ledger.put(job.decode())
            self.redis.srem(self.key("jobs"), job)


SET = Scenario(
    "job set",
    {"A": [Call("work", "work", after=("put",))], "B": [Call("put", "put", ("j1",))]},
    [Kill(pods=frozenset("A"))],
    workload=Recovered(),
    checks=[all_done("j1")],
)

# --- a stream with a consumer group ---


class StreamBroken(Pod):
    """Acknowledges, then works."""

    idle_ms: ClassVar[int] = 0

    def put(self, job: str) -> None:
        self.redis.xgroup_create(self.key("stream"), "workers", id="0", mkstream=True)
        self.redis.xadd(self.key("stream"), {"job": job})

    def work(self) -> None:
        found = self.redis.xreadgroup("workers", self.env.name, {self.key("stream"): ">"}, count=1)
        for _, messages in found:
            for number, fields in messages:
                self.do(number, fields)

    def do(self, number: bytes, fields: dict[bytes, bytes]) -> None:
        self.redis.xack(self.key("stream"), "workers", number)
        self.env.ledger.put(fields[b"job"].decode())

    def recover(self) -> None:
        """Takes over what others have read and not acknowledged: all calls have ended, so those are dead."""
        _, messages, *_ = self.redis.xautoclaim(self.key("stream"), "workers", self.env.name, self.idle_ms)
        for number, fields in messages:
            self.do(number, fields)
        self.work()


class StreamMended(StreamBroken):
    def do(self, number: bytes, fields: dict[bytes, bytes]) -> None:
        self.env.ledger.put(fields[b"job"].decode())
        self.redis.xack(self.key("stream"), "workers", number)


STREAM = Scenario(
    "stream with a consumer group",
    {"A": [Call("work", "work", after=("put",))], "B": [Call("put", "put", ("j1",))]},
    [Kill(pods=frozenset("A"))],
    workload=Recovered(),
    checks=[all_done("j1")],
    keeps=["stream"],
)


class IdleMended(StreamMended):
    """Claims only entries that were idle for half a minute."""

    idle_ms = 30_000


class PendingMended(StreamMended):
    """Lists the pending entries first: their idle time is part of the reply."""

    def recover(self) -> None:
        waiting = self.redis.xpending_range(self.key("stream"), "workers", "-", "+", 10)
        for one in waiting:
            number = one["message_id"]
            for _, fields in self.redis.xclaim(self.key("stream"), "workers", self.env.name, 0, [number]):
                self.do(number, fields)
        self.work()


def done_once(run: Run) -> Iterator[Finding]:
    if entries(run).count("j1") > 1:
        yield Finding("duplicated", "j1", "j1 was done twice")


class StolenBroken(IdleMended):
    """Takes over entries idle for half a minute, although their worker may only be slow."""


class StolenMended(IdleMended):
    """Claims the job's name first: of two workers with the same job only one does it."""

    def do(self, number: bytes, fields: dict[bytes, bytes]) -> None:
        if self.redis.set(self.key("taken"), self.env.name, nx=True):
            super().do(number, fields)


STOLEN = Scenario(
    "a slow worker, and one who takes over",
    {
        "A": [Call("work", "work", after=("put",))],
        "B": [Call("put", "put", ("j1",)), Call("take over", "recover")],
    },
    [TimePasses()],
    workload=Recovered(),
    checks=[done_once],
    keeps=["stream", "taken"],
)


# --- a log with numbered entries ---


class LogBroken(Pod):
    """Numbers an entry by the length of the log."""

    def write(self) -> None:
        self.redis.xadd(self.key("log"), {"number": self.redis.xlen(self.key("log"))})


class LogMended(Pod):
    def write(self) -> None:
        self.redis.xadd(self.key("log"), {"number": self.redis.incr(self.key("last"))})


def numbers_differ(run: Run) -> Iterator[Finding]:
    numbers = [fields[1] for _, fields in run.redis.get("log", [])]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield Finding("duplicated", number, f"two lines of the log have the number {number}")


LOG = Scenario("log", both("write"), checks=[numbers_differ], keeps=["log", "last"])

# --- a lease that may run out ---


class FencedBroken(Pod):
    """Writes without checking that it still has the lease."""

    def write(self) -> str:
        token = self.redis.incr(self.key("token"))
        if not self.redis.set(self.key("lease"), token, nx=True, px=2000):
            return "busy"
        self.store(token)
        return "written"

    def store(self, token: int) -> None:
        self.redis.rpush(self.key("writes"), token)


FENCED = """
if tonumber(redis.call('LINDEX', KEYS[1], -1) or '0') > tonumber(ARGV[1]) then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[1])
"""


class FencedMended(FencedBroken):
    """A write with an older fencing token than the last one is refused."""

    def store(self, token: int) -> None:
        self.redis.eval(FENCED, 1, self.key("writes"), token)


def writes_in_order(run: Run) -> Iterator[Finding]:
    writes = [int(token) for token in run.redis.get("writes", [])]
    if writes != sorted(writes):
        yield Finding("lost", "write", f"an older write came after a newer one: {writes}")


FENCE = Scenario("fenced writes", both("write"), [TimePasses()], checks=[writes_in_order], keeps=["token", "writes"])
