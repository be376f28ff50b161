"""Small services that have nothing to do with uploads: each method shows one thing."""

from __future__ import annotations

from typing import Any

from podrace.simulator.target import PodEnv


class Keys:
    """Calls that read and write keys, and nothing else."""

    def __init__(self, env: PodEnv) -> None:
        self.env = env
        self.calls = 0
        self.first, self.second = env.runtime.lock(), env.runtime.lock()

    def key(self, name: str) -> str:
        return self.env.prefix + name

    def get(self, name: str) -> Any:
        found = self.env.redis.get(self.key(name))
        return found and found.decode()

    def put(self, name: str, value: Any, life_s: int | None = None) -> Any:
        self.env.redis.set(self.key(name), value, ex=life_s)
        return value

    def increment(self, name: str) -> int:
        """Read and write in two steps, so that an increment can be lost."""
        value = int(self.env.redis.get(self.key(name)) or 0) + 1
        self.env.redis.set(self.key(name), value)
        return value

    def count(self) -> int:
        """How often this pod was called since it was made."""
        self.calls += 1
        return self.calls

    def draw(self) -> float:
        return self.env.rng.random()

    def clocks(self) -> tuple[float, float]:
        """The time of the runtime and of the server."""
        seconds, micros = self.env.redis.time()
        return self.env.runtime.now(), seconds + micros / 1_000_000

    def lives_s(self, name: str) -> int:
        return int(self.env.redis.ttl(self.key(name)))

    def sleep(self, seconds: float) -> float:
        began_s = self.env.runtime.now()
        self.env.runtime.sleep(seconds)
        return self.env.runtime.now() - began_s

    def beat(self) -> None:
        """Start a heartbeat that never ends."""

        def beats() -> None:
            while True:
                self.env.runtime.sleep(10)
                self.env.redis.incr(self.key("beats"))

        self.env.runtime.spawn("heart", beats)

    def pop(self, name: str, within_s: float = 0) -> Any:
        found = self.env.redis.blpop([self.key(name)], timeout=within_s)
        return found and found[1].decode()

    def push(self, name: str, value: str) -> int:
        return int(self.env.redis.rpush(self.key(name), value))

    def one_way(self) -> str:
        with self.first:
            self.get("a")
            with self.second:
                return "one way"

    def other_way(self) -> str:
        with self.second:
            self.get("b")
            with self.first:
                return "other way"

    def own_error(self, name: str) -> None:
        """Raises its own error when a command has failed."""
        try:
            self.put(name, "1")
        except Exception:
            raise LookupError("not today") from None

    def refuse(self) -> None:
        raise LookupError("not today")

    def fill(self) -> None:
        """Write one key of each type."""
        pipe = self.env.redis.pipeline(transaction=True)
        pipe.set(self.key("text"), "one")
        pipe.rpush(self.key("list"), "b", "a")
        pipe.sadd(self.key("set"), "b", "a")
        pipe.hset(self.key("hash"), "field", "value")
        pipe.execute()


class Shared(Keys):
    """Keeps its state where every pod of the same process could see it."""

    seen: list[str] = []  # noqa: RUF012 - on purpose

    def count(self) -> int:
        self.seen.append(self.env.name)
        return len(self.seen)
