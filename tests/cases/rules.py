"""What a judge must see, with one tiny target for each rule: those named Wrong… are violated, the others hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from redis.exceptions import ConnectionError as LostConnectionError

from cases.common import Effects, Pod, all_return, entries
from podrace import Call, CorruptKey, Finding, Kill, LoseConnection, PodEnv, Run, Scenario

# --- (a) real time: a status never goes back ---


class WrongStatus(Pod):
    """One pod reads the status from its memory, the other from Redis."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.known = "pending"

    def finish(self) -> None:
        self.known = "done"
        self.redis.set(self.key("status"), "done", ex=3600)

    def status(self) -> str:
        return self.known if self.env.name == "A" else self.text("status") or "pending"


class WrongLateStatus(WrongStatus):
    """Redis has the status before the pod gets the reply: meanwhile another thread of the pod says pending."""

    def finish(self) -> None:
        self.redis.set(self.key("status"), "done", ex=3600)
        self.known = "done"


class RightStatus(WrongStatus):
    def status(self) -> str:
        return self.text("status") or "pending"


def never_goes_back(run: Run) -> Iterator[Finding]:
    asked = [call for call in run.calls if call.method == "status"]
    for first in asked:
        for then in asked:
            if first.before(then) and (first.value, then.value) == ("done", "pending"):
                yield Finding("misreported", then.name, f"{then.name} says pending after {first.name} said done")


STATUS = Scenario(
    "two looks at a status",
    {
        "A": [Call("finish", "finish")],
        "A.reader": [Call("look A", "status")],
        "B": [Call("look B", "status")],
    },
    checks=[never_goes_back],
)

# --- (b) state that pods share only in one process ---


def answers_the_other(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "get" and call.value != "value":
            yield Finding("lost", call.name, f"{call.actor} does not know what was put")


SHARED = Scenario(
    "what another pod has put",
    {"A": [Call("put", "put", ("value",))], "B": [Call("get", "get", after=("put",))]},
    checks=[answers_the_other],
)

_HELD: dict[str, str] = {}


class WrongOnClass:
    held: ClassVar[dict[str, str]] = {}

    def __init__(self, env: PodEnv) -> None:
        self.env = env

    def put(self, value: str) -> None:
        self.held["it"] = value

    def get(self) -> str | None:
        return self.held.get("it")


class WrongClassAttribute(WrongOnClass):
    """Assigns a new value to a class attribute."""

    it: ClassVar[str | None] = None

    def put(self, value: str) -> None:
        type(self).it = value

    def get(self) -> str | None:
        return type(self).it


class WrongInModule(WrongOnClass):
    held = _HELD


class WrongInDefault(WrongOnClass):
    def put(self, value: str, kept: dict[str, str] = {}) -> None:  # noqa: B006 - that is the bug
        kept["it"] = value

    def get(self) -> str | None:
        kept: dict[str, str] = (WrongInDefault.put.__defaults__ or ({},))[0]
        return kept.get("it")


def _closure() -> tuple[Callable[[str], None], Callable[[], str | None]]:
    held: list[str] = []

    def last() -> str | None:
        return held[-1] if held else None

    return held.append, last


_PUT, _GET = _closure()


class WrongInClosure(WrongOnClass):
    def put(self, value: str) -> None:
        _PUT(value)

    def get(self) -> str | None:
        return _GET()


@functools.lru_cache
def _cached() -> list[str]:
    return []


class WrongInCache(WrongOnClass):
    def put(self, value: str) -> None:
        _cached().append(value)

    def get(self) -> str | None:
        return _cached()[-1] if _cached() else None


class WrongOnFunction(WrongOnClass):
    def put(self, value: str) -> None:
        _closure.held = value  # type: ignore[attr-defined]

    def get(self) -> str | None:
        return getattr(_closure, "held", None)


# --- (d) two locks in two orders ---


class WrongOrder(Pod):
    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.one, self.other = env.runtime.lock(), env.runtime.lock()

    def there(self) -> None:
        with self.one:
            self.redis.get(self.key("x"))
            with self.other:
                self.redis.get(self.key("y"))

    def back(self) -> None:
        with self.other:
            self.redis.get(self.key("x"))
            with self.one:
                self.redis.get(self.key("y"))


class SameOrder(WrongOrder):
    def back(self) -> None:
        self.there()


LOCKS = Scenario("two locks", {"A": [Call("there", "there")], "A.two": [Call("back", "back")]})

# --- (h) an error that wraps a broken connection is indefinite ---


class SavingError(Exception):
    pass


class Wraps(Pod):
    """Raises its own error for a broken connection: with a cause, with only a context, or from None."""

    way: ClassVar[str] = "cause"

    def save(self) -> None:
        try:
            self.redis.set(self.key("saved"), 1)
        except LostConnectionError as error:
            if self.way == "cause":
                raise SavingError("not saved") from error
            if self.way == "context":
                raise SavingError("not saved")  # noqa: B904 - that is the case
            raise SavingError("not saved") from None


class WrapsInContext(Wraps):
    way = "context"


class WrapsFromNone(Wraps):
    way = "none"


class RaisesLater(Pod):
    """Swallows the broken connection, and raises its own error after the handler."""

    def save(self) -> None:
        done = False
        try:
            self.redis.set(self.key("saved"), 1)
            done = True
        except LostConnectionError:
            pass
        if not done:
            raise SavingError("not saved")


class RaisesOSError(Pod):
    """If a call raises a TimeoutError of its own, its effect is unknown."""

    def save(self) -> None:
        self.redis.set(self.key("saved"), 1)
        raise TimeoutError("some other client timed out")


def definite_means_not_done(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.type == "fail" and "saved" in run.redis:
            yield Finding("misreported", call.name, f"{call.name} definitely failed ({call.error}), and it is saved")


SAVES = Scenario(
    "errors of a target's own",
    {"A": [Call("save", "save")], "B": [Call("look", "save")]},
    [LoseConnection(pods=frozenset("A"), actions=("drop-reply",))],
    checks=[definite_means_not_done],
    keeps=["saved"],
)
TIMES_OUT = Scenario(
    "a timeout of its own",
    {"A": [Call("save", "save")], "B": [Call("other", "fine")]},
    checks=[definite_means_not_done],
    keeps=["saved"],
)


class OtherTimeoutError(RaisesOSError):
    def fine(self) -> None:
        self.redis.get(self.key("saved"))


# --- (i) pipelines, and what faults know of commands ---


class WrongPipeline(Pod):
    """A pipeline without a transaction: another pod's command can come in between."""

    transaction: ClassVar[bool] = False

    def write(self) -> None:
        with self.redis.pipeline(transaction=self.transaction) as pipe:
            pipe.set(self.key("x"), 1)
            pipe.set(self.key("y"), 1)
            pipe.execute()

    def read(self) -> list[bool]:
        x, y = self.redis.mget(self.key("x"), self.key("y"))
        return [x is None, y is None]


class OneTransaction(WrongPipeline):
    transaction = True


def all_or_nothing(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "read" and len(set(call.value or ())) > 1:
            yield Finding("misreported", call.name, f"{call.name} sees half of it: {call.value}")


PIPELINE = Scenario(
    "a pipeline",
    {"A": [Call("write", "write")], "B": [Call("read", "read")]},
    checks=[all_or_nothing],
    keeps=["x", "y"],
)


class WrongTrim(Pod):
    """Reads the first item of a list, then trims: if the LTRIM is lost, the item stays."""

    def put(self) -> None:
        self.redis.rpush(self.key("list"), "m1")

    def take(self) -> None:
        try:
            self.trim()
        except LostConnectionError:
            pass

    def trim(self) -> None:
        self.redis.execute_command("ltrim", self.key("list"), 1, -1)


class WrongTrimInPipeline(WrongTrim):
    def trim(self) -> None:
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.lindex(self.key("list"), 0)
            pipe.ltrim(self.key("list"), 1, -1)
            pipe.execute()


class WrongTrimInTransaction(WrongTrim):
    def trim(self) -> None:
        with self.redis.pipeline() as pipe:
            pipe.lindex(self.key("list"), 0)
            pipe.ltrim(self.key("list"), 1, -1)
            pipe.execute()


TRIM = Scenario(
    "LTRIM lost",
    {"A": [Call("put", "put"), Call("take", "take")]},
    [LoseConnection(commands=frozenset({"LTRIM"}))],
)


class WrongList(Pod):
    """Trusts the items that it reads, even damaged ones."""

    def put(self) -> None:
        self.redis.rpush(self.key("k"), "message")

    def get(self) -> str:
        return str(self.redis.lrange(self.key("k"), 0, -1)[0].decode())


class WrongHash(WrongList):
    def put(self) -> None:
        self.redis.hset(self.key("k"), "f", "message")

    def get(self) -> str:
        return str(self.redis.hget(self.key("k"), "f").decode())


class WrongScript(WrongList):
    def put(self) -> None:
        self.redis.set(self.key("k"), "message")

    def get(self) -> str:
        return str(self.redis.eval("return redis.call('GET', KEYS[1])", 1, self.key("k")).decode())


class WrongGetEx(WrongScript):
    def get(self) -> str:
        return str(self.redis.getex(self.key("k"), ex=60).decode())


class WrongZset(WrongList):
    def put(self) -> None:
        self.redis.zadd(self.key("k"), {"message": 1})

    def get(self) -> str:
        return str(self.redis.zrange(self.key("k"), 0, -1)[0].decode())


class WrongSet(WrongList):
    def put(self) -> None:
        self.redis.sadd(self.key("k"), "message")

    def get(self) -> str:
        return str(min(self.redis.smembers(self.key("k"))).decode())


class WrongStream(WrongList):
    def put(self) -> None:
        self.redis.xadd(self.key("k"), {"f": "message"})

    def get(self) -> str:
        return str(self.redis.xrange(self.key("k"))[0][1][b"f"].decode())


def is_whole(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.method == "get" and call.type == "ok" and call.value != "message":
            yield Finding("misreported", call.name, f"{call.name} hands out {call.value}")


CORRUPT = Scenario(
    "a damaged key",
    {"A": [Call("put", "put")], "B": [Call("get", "get", after=("put",))]},
    [CorruptKey(pods=frozenset("B"))],
    checks=[is_whole],
    keeps=["k"],
)

# --- (r) blocking pops ---


class Pops(Pod):
    timeout_s: ClassVar[int] = 0

    def take(self) -> str:
        found = self.redis.brpop(self.key("jobs"), self.timeout_s)
        return "none" if found is None else str(found[1].decode())

    def put(self) -> None:
        self.redis.rpush(self.key("jobs"), "j1")

    def look(self) -> int:
        return int(self.redis.llen(self.key("jobs")))


class PopsInTime(Pops):
    timeout_s = 2


_TAKE = {name: [Call(f"take {name}", "take")] for name in "AB"}
ALONE = Scenario("nobody pushes", {**_TAKE, "C": [Call("look", "look")]}, checks=[all_return])
NOBODY = Scenario("nobody pushes, and nobody comes back", _TAKE)
TWO_TAKE = Scenario(
    "two wait for one",
    {"A": [Call("take A", "take")], "B": [Call("take B", "take")], "C": [Call("put", "put")]},
)


def both_orders(run: Run) -> Iterator[Finding]:
    """The first to wait gets the job; the search must also explore the order in which that is B."""
    for call in run.calls:
        if call.name == "take B" and call.value == "j1":
            yield Finding("lost", "order", "B got it")


EITHER_TAKES = Scenario(TWO_TAKE.name, TWO_TAKE.lines, checks=[both_orders])

# --- two users, one batch id: state that a service shares between users is part of its footprint ---


class Mailbox:
    """Remembers batch ids for all users together."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.entries: list[str] = []

    def send(self, user: str, text: str, batch: str) -> None:
        if batch not in self.seen:
            self.seen.add(batch)
            self.entries.append(f"{user} {text}")


class Mail(Effects):
    def services(self, now: Any, given: Any) -> dict[str, Any]:
        return {"ledger": Mailbox()}


class WrongBatches(Pod):
    def send(self, user: str) -> str:
        self.env.ledger.send(user, "hello", self.batch(user))
        return user

    def batch(self, user: str) -> str:
        return "b1"


class RightBatches(WrongBatches):
    def batch(self, user: str) -> str:
        return f"{user} b1"


def all_get_mail(run: Run) -> Iterator[Finding]:
    for call in run.calls:
        if call.type == "ok" and f"{call.value} hello" not in entries(run):
            yield Finding("lost", str(call.value), f"nothing reached {call.value}")


BATCHES = Scenario(
    "two users, one batch id",
    {"A": [Call("send A", "send", ("ann",))], "B": [Call("send B", "send", ("bob",))]},
    workload=Mail(),
    checks=[all_get_mail],
)

# --- raw WATCH and EXEC, without redis-py's pipeline ---


class RawWatch(Pod):
    def add(self) -> str:
        send = self.redis.execute_command
        send("WATCH", self.key("count"))
        held = int(self.text("count") or 0)
        send("MULTI")
        send("SET", self.key("count"), held + 1)
        return "refused" if send("EXEC") is None else "added"


class WrongRaw(RawWatch):
    """MULTI and EXEC without the WATCH."""

    def add(self) -> str:
        send = self.redis.execute_command
        held = int(self.text("count") or 0)
        send("MULTI")
        send("SET", self.key("count"), held + 1)
        send("EXEC")
        return "added"


def counts_the_added(run: Run) -> Iterator[Finding]:
    added = sum(call.value == "added" for call in run.calls)
    if int(run.redis.get("count", 0)) < added:
        yield Finding("lost", "count", f"{added} were added, the count is {run.redis.get('count')}")


RAW = Scenario(
    "raw WATCH and EXEC",
    {name: [Call(f"add {name}", "add")] for name in "AB"},
    checks=[counts_the_added],
    keeps=["count"],
)

# --- scripts: undeclared keys, and NOSCRIPT ---

UNDECLARED = "return redis.call('SET', ARGV[1], ARGV[2])"


class WrongUndeclared(Pod):
    """Reads a key, and writes it back with a script that does not declare it."""

    def add(self) -> None:
        held = int(self.text("count") or 0)
        self.redis.eval(UNDECLARED, 0, self.key("count"), held + 1)


def counts_calls(run: Run) -> Iterator[Finding]:
    if int(run.redis.get("count", 0)) < sum(call.type == "ok" for call in run.calls):
        yield Finding("lost", "count", f"the count is {run.redis.get('count')}")


class ByName(Pod):
    """EVALSHA, NOSCRIPT, EVAL, by hand."""

    def add(self) -> None:
        from redis.exceptions import NoScriptError

        text = "return redis.call('INCR', KEYS[1])"
        sha = __import__("hashlib").sha1(text.encode()).hexdigest()
        try:
            self.redis.evalsha(sha, 1, self.key("count"))
        except NoScriptError:
            self.redis.eval(text, 1, self.key("count"))


SCRIPTS = Scenario(
    "scripts", {name: [Call(f"add {name}", "add")] for name in "AB"}, checks=[counts_calls], keeps=["count"]
)

# --- leaks ---


class WrongKeys(Pod):
    """Leaves a key behind whose name is not UTF-8."""

    def put(self) -> None:
        self.redis.set(self.env.prefix.encode() + b"\xff\xfe", 1)


LEAK = Scenario("a key of bytes", {name: [Call(f"put {name}", "put")] for name in "AB"})


class KilledEarly(Pod):
    """Killed before or after its first step: what it took is gone with it, or was never taken."""

    def put(self) -> None:
        self.redis.rpush(self.key("jobs"), "j1")

    def take(self) -> None:
        found = self.redis.lpop(self.key("jobs"))
        if found is not None:
            self.env.ledger.put(found.decode())


class KilledLater(KilledEarly):
    """Takes it some time after the client's last call has ended: it may be killed there too."""

    def take(self) -> None:
        self.env.runtime.spawn("take", self._take_later)

    def _take_later(self) -> None:
        for seconds in (5.0, 7.0):
            self.env.runtime.sleep(seconds)
        super().take()


class KilledTwice(KilledLater):
    """Takes it only where another pod was killed, whose call was the last one and had waited for some time itself."""

    def look(self) -> None:
        for _ in range(2):
            self.env.runtime.sleep(1.0)
        self.redis.set(self.key("looked"), 1)

    def _take_later(self) -> None:
        for seconds in (5.0, 7.0):
            self.env.runtime.sleep(seconds)
        if not self.redis.exists(self.key("looked")):
            KilledEarly.take(self)


def job_is_somewhere(run: Run) -> Iterator[Finding]:
    if any(call.name == "put" and call.type == "ok" for call in run.calls) and not (
        "j1" in entries(run) or run.redis.get("jobs")
    ):
        yield Finding("lost", "j1", "the job is nowhere")


KILLED = Scenario(
    "killed with the job",
    {"A": [Call("put", "put"), Call("take", "take")]},
    [Kill()],
    workload=Effects(),
    checks=[job_is_somewhere],
    keeps=["jobs"],
)
KILLED_TWICE = Scenario(
    "another pod is killed first",
    {**KILLED.lines, "B": [Call("look", "look", after=("take",))]},
    [Kill()],
    workload=Effects(),
    checks=[job_is_somewhere],
    keeps=["jobs", "looked"],
)
