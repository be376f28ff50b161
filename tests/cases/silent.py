"""Correct services for which nothing may be reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import redis

from cases.common import Effects, Pod, all_done, entries, never_twice
from podrace import Call, Finding, LoseConnection, Run, Scenario, TimePasses

DAY_S = 24 * 3600


class OneAtATurn(Pod):
    """Ten messages wait, and each call takes one."""

    def put(self) -> None:
        self.redis.rpush(self.key("queue"), *[f"m{number}" for number in range(10)])

    def turn(self) -> None:
        found = self.redis.lpop(self.key("queue"))
        if found is not None:
            self.env.ledger.put(found.decode())


class Turns(Effects):
    asks: ClassVar[tuple[str, ...]] = ("turn",)


ONE_AT_A_TURN = Scenario(
    "one message at a turn",
    {"A": [Call("put", "put")], "B": [Call("turn", "turn")]},
    workload=Turns(),
    checks=[all_done(*[f"m{number}" for number in range(10)]), never_twice],
)

PASS = """
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count >= 2 then return 0 end
redis.call('INCR', KEYS[1])
if count == 0 then redis.call('EXPIRE', KEYS[1], 10) end
return 1
"""


class TwoAWindow(OneAtATurn):
    """A limiter lets two through in each window, and five wait."""

    def put(self) -> None:
        self.redis.rpush(self.key("queue"), *[f"m{number}" for number in range(5)])

    def may_pass(self) -> bool:
        return bool(self.redis.eval(PASS, 1, self.key("passed")))

    def turn(self) -> None:
        if self.redis.llen(self.key("queue")) and self.may_pass():
            super().turn()


class CountsTheRefused(TwoAWindow):
    """INCR for each visitor, refused ones too: the window ends nevertheless."""

    def may_pass(self) -> bool:
        with self.redis.pipeline() as pipe:
            pipe.set(self.key("passed"), 0, nx=True, ex=10)
            pipe.incr(self.key("passed"))
            _, count = pipe.execute()
        return bool(count <= 2)


TWO_A_WINDOW = Scenario(
    "two a window",
    {"A": [Call("put", "put")], "B": [Call("turn", "turn")]},
    workload=Turns(),
    checks=[all_done(*[f"m{number}" for number in range(5)]), never_twice],
)


class Remembers(Pod):
    """An idempotency record that is kept for a day."""

    def pay(self) -> None:
        if self.redis.set(self.key("paid"), 1, nx=True, ex=DAY_S):
            self.env.ledger.put("charge")


REMEMBERS = Scenario(
    "record of a day",
    {name: [Call(f"pay {name}", "pay")] for name in "AB"},
    [LoseConnection()],
    workload=Effects(),
    checks=[never_twice],
)


class Beats(Pod):
    """A heartbeat that never ends."""

    def start(self) -> None:
        self.env.runtime.spawn("heart", self.beat)

    def beat(self) -> None:
        while True:
            self.redis.set(self.key(f"alive:{self.env.name}"), 1, ex=30)
            self.env.runtime.sleep(10)


BEATS = Scenario(
    "heartbeat", {name: [Call(f"start {name}", "start")] for name in "AB"}, [TimePasses()], keeps=["alive:*"]
)


class KeepsLonger(Pod):
    """A result that is kept for 48 h behind a status that is kept for 24 h."""

    def finish(self) -> None:
        self.redis.set(self.key("result"), "r", ex=2 * DAY_S)
        self.redis.set(self.key("status"), "done", ex=DAY_S)

    def look(self) -> str:
        if self.text("status") is None:
            return "unknown"
        return self.text("result") or "gone"


def never_gone(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.value == "gone":
            yield Finding("lost", call.name, "the status stands, and the result is gone")


KEEPS_LONGER = Scenario(
    "result behind status",
    {"A": [Call("finish", "finish")], "B": [Call(f"look {number}", "look") for number in (1, 2)]},
    [TimePasses(at_most_s=DAY_S)],  # a pod paused for two days between its two reads finds neither
    checks=[never_gone],
)


class Pops(Pod):
    """A blocking pop without a timeout, which a push wakes."""

    timeout_s = 0

    def put(self) -> None:
        self.redis.rpush(self.key("jobs"), "j1")

    def take(self) -> str:
        found = self.redis.brpop(self.key("jobs"), self.timeout_s)
        return "none" if found is None else str(found[1].decode())


class PopsInTime(Pops):
    """A blocking pop with a timeout, repeated until there is something."""

    timeout_s = 3

    def take(self) -> str:
        while (found := super().take()) == "none":
            pass
        return found


def is_taken(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "take" and call.value != "j1":
            yield Finding("lost", call.name, f"{call.name} got {call.value} ({call.type} {call.error})")


POPS = Scenario("blocking pop", {"A": [Call("take", "take")], "B": [Call("put", "put")]}, checks=[is_taken])


class GivesUp(Pops):
    """A pop that nobody wakes returns when its timeout is over."""

    timeout_s = 3


def comes_back(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.type != "ok":
            yield Finding("stuck", call.name, f"{call.name} ended as {call.type}")


GIVES_UP = Scenario(
    "pop that times out", {"A": [Call("take A", "take")], "B": [Call("take B", "take")]}, checks=[comes_back]
)


class Numbers(Pod):
    """Ids made by the server: all different, and in order."""

    def add(self) -> str:
        return str(self.redis.xadd(self.key("log"), {"by": self.env.name}).decode())


def ids_differ(run: Run) -> Iterator[Finding]:
    ids = [call.value for call in run.calls]
    if len(set(ids)) < len(ids):
        yield Finding("duplicated", "id", f"two have one id: {ids}")


NUMBERS = Scenario(
    "ids by XADD *",
    {name: [Call(f"add {name} {number}", "add") for number in (1, 2)] for name in "AB"},
    checks=[ids_differ],
    keeps=["log"],
)


class TinyLock(Pod):
    """A lock of 2 ms: on the harness's clock no time passes between two commands."""

    def work(self) -> str:
        if not self.redis.set(self.key("lock"), self.env.name, nx=True, px=2):
            return "busy"
        self.env.ledger.put(f"in {self.env.name}")
        return "mine" if self.text("lock") == self.env.name else "gone"


def stays_mine(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.value == "gone":
            yield Finding("lost", call.name, "the lock ran out, though no time has passed")


TINY_LOCK = Scenario(
    "lock of 2 ms",
    {name: [Call(f"work {name}", "work")] for name in "AB"},
    workload=Effects(),
    checks=[stays_mine],
)


class AsksTheTime(Pod):
    """TIME, PTTL and runtime.now() agree."""

    def look(self) -> str:
        self.redis.set(self.key(f"k{self.env.name}"), 1, px=5000)
        seconds, _ = self.redis.time()
        self.env.runtime.sleep(2)
        later, _ = self.redis.time()
        left = self.redis.pttl(self.key(f"k{self.env.name}"))
        now_s = int(self.env.runtime.now())
        return f"{later - seconds} {left} {now_s - later}"


def times_agree(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.value != "2 3000 0":
            yield Finding("misreported", call.name, f"the times are {call.value}")


ASKS_THE_TIME = Scenario("times agree", {name: [Call(f"look {name}", "look")] for name in "AB"}, checks=[times_agree])


class Fresh(Pod):
    """A schedule must not find what the one before left on the server or the connection."""

    def load(self) -> str:
        library = f"#!lua name=mylib\nserver.register_function('one{self.env.name}', function() return 1 end)"
        self.redis.execute_command("FUNCTION", "LOAD", library.replace("mylib", f"lib{self.env.name}"))
        return str(self.redis.execute_command("FCALL", f"one{self.env.name}", 0))

    def open_transaction(self) -> str:
        self.redis.execute_command("MULTI")
        return "1"

    def other_database(self) -> str:
        self.redis.execute_command("SELECT", 1)
        found = self.redis.get(self.key("there"))
        self.redis.set(self.key("there"), 1)
        return "1" if found is None else "found what another run has left"

    def subscribe(self) -> str:
        self.news = self.redis.pubsub()
        self.news.subscribe(self.key("news"))
        return "1"

    def subscribe_and_close(self) -> str:
        with self.redis.pubsub() as news:
            news.subscribe(self.key("news"))
        return "1"

    def nobody(self) -> str:
        """Sends 20 messages: the server may not have noticed yet at the first that the subscriber has gone."""
        found = {self.redis.publish(self.key("news"), "hello") for _ in range(20)}
        return "1" if found == {0} else f"{found} listen"

    def listeners(self) -> str:
        found: int = self.redis.publish(self.key("news"), "hello")
        return "1" if found <= 1 else f"{found} listen, of whom one at most is of this run"


def says_one(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.type != "ok" or call.value != "1":
            yield Finding("misreported", call.name, f"{call.name}: {call.type} {call.value} {call.error}")


FUNCTIONS = Scenario("FUNCTION LOAD", {name: [Call(f"load {name}", "load")] for name in "AB"}, checks=[says_one])
OPEN = Scenario(
    "MULTI left open", {name: [Call(f"open {name}", "open_transaction")] for name in "AB"}, checks=[says_one]
)
DATABASE = Scenario(
    "SELECT 1",
    {"A": [Call("select", "other_database")], "B": [Call("listeners", "listeners")]},
    checks=[says_one],
    keeps=["there"],
)
SUBSCRIBED = Scenario(
    "left subscribed",
    {"A": [Call("subscribe", "subscribe")], "B": [Call("publish 1", "listeners"), Call("publish 2", "listeners")]},
    checks=[says_one],
)

CLOSED = Scenario(
    "subscribed for a while",
    {"A": [Call("subscribe", "subscribe_and_close")], "B": [Call("publish", "nobody", after=("subscribe",))]},
    checks=[says_one],
)


class Watches(Pod):
    """A transaction on a watched key with a time to live, which only the pod itself touches."""

    def extend(self, how: str) -> str:
        key = self.key("lease")
        if how != "again":
            self.redis.set(key, "mine", ex=100)
        with self.redis.pipeline() as pipe:
            pipe.watch(key)
            pipe.get(key)
            pipe.multi()
            if how == "set":
                pipe.set(key, "mine", ex=50)
            else:
                pipe.expire(key, 100)
            try:
                pipe.execute()
            except redis.WatchError:
                return "aborted"
        return "1"

    def wait(self) -> str:
        self.env.runtime.sleep(30)
        return "1"


def lives_for_what_it_was_given(run: Run) -> Iterator[Finding]:
    for one in run.left:
        if one.left_s not in (50 - 60, 100 - 60, None):
            yield Finding("misreported", one.key, f"{one.key} lives for {one.left_s} s more")


EXTENDS = Scenario(
    "EXPIRE of a watched key, and once more later",
    {"A": [Call("first", "extend", ("expire",)), Call("wait", "wait"), Call("then", "extend", ("again",))]},
    checks=[says_one, lives_for_what_it_was_given],
    keeps=["lease"],
)
SETS_ANEW = Scenario(
    "SET EX of a watched key", {"A": [Call("set", "extend", ("set",))]}, checks=[says_one], keeps=["lease"]
)


class Picks(Pod):
    """SPOP: whichever member it takes, no two callers get the same one."""

    def put(self) -> None:
        self.redis.sadd(self.key("jobs"), "a", "b", "c")

    def pick(self) -> None:
        found = self.redis.spop(self.key("jobs"))
        if found is not None:
            self.env.ledger.put(found.decode())


def picked(run: Run) -> Iterator[Finding]:
    rest = run.redis.get("jobs", [])
    if sorted([*rest, *entries(run)]) != ["a", "b", "c"]:
        yield Finding("lost", "jobs", f"{rest} are left, {entries(run)} were picked")


PICKS = Scenario(
    "SPOP",
    {"A": [Call("put", "put"), Call("pick A", "pick")], "B": [Call("pick B", "pick", after=("put",))]},
    workload=Effects(),
    checks=[picked],
    keeps=["jobs"],
)
