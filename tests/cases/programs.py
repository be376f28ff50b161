"""Runs a small program; `test_programs.py` makes such programs at random."""

from __future__ import annotations

from typing import Any

import redis

from cases.common import Pod
from podrace import PodEnv

Command = tuple[Any, ...]
"""A name and its arguments. The argument `<` stands for the reply to the command before."""

ADD = "return redis.call('INCRBY', KEYS[1], 2) + (tonumber(redis.call('GET', KEYS[2]) or '0') or 7)"
MOVE = "local one = redis.call('LPOP', KEYS[1]) if one then redis.call('RPUSH', KEYS[2], one) end return one"
LEASE = "return redis.call('SET', KEYS[1], redis.call('GET', KEYS[2]) or 'mine', 'NX', 'PX', 2000)"
RENEW = "return redis.call('PEXPIRE', KEYS[1], 3000) + redis.call('EXISTS', KEYS[2])"
CHECK = "return redis.call('GET', KEYS[1]) or redis.call('SET', KEYS[2], 'none')"
SCRIPTS = {"ADD": ADD, "MOVE": MOVE, "LEASE": LEASE, "RENEW": RENEW, "CHECK": CHECK}
OWN = frozenset(
    [
        "LOCKED",
        "SPAWN",
        "TRANSACTION",
        "PIPELINE",
        "BOTH",
        "SCRIPT",
        "POP",
        "WAIT",
        "REMEMBER",
        "LEARN",
        "RECALL",
        "NOW",
    ]
) | {"SLEEP", "CLOCK"}
"""Commands that are methods of the runner; all others go to Redis, with a key as first argument."""


class Runner(Pod):
    """`run` runs the commands in the scenario's options and returns all that they saw."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.memory: list[str] = []
        self.lock = env.runtime.lock()

    def run(self, name: str) -> list[str]:
        replies = ["none"]
        for command in self.env.options["programs"][name]:
            replies.append(self.attempt(command, replies[-1]))
        return replies[1:]

    def attempt(self, command: Command, last: str) -> str:
        """An error reply counts as a reply; a broken connection ends the program."""
        try:
            return plain(self.do(command[0], *[last if word == "<" else word for word in command[1:]]))
        except redis.ResponseError as error:
            return f"refused: {error}"

    def do(self, name: str, *args: Any) -> Any:
        if name in OWN:
            return getattr(self, name.lower())(*args)
        return self.redis.execute_command(name, self.key(args[0]), *args[1:])

    def locked(self, *command: Any) -> Any:
        with self.lock:
            return self.do(*command)

    def spawn(self, *command: Any) -> None:
        self.env.runtime.spawn("child", lambda: self.memory.append(self.attempt(command, "none")))

    def transaction(self, watched: str, written: str) -> str:
        """WATCH and read one key, then append its value to another."""
        with self.redis.pipeline() as pipe:
            pipe.watch(self.key(watched))
            found: Any = pipe.get(self.key(watched))
            pipe.multi()
            pipe.append(self.key(written), found or "-")
            try:
                return plain(pipe.execute())
            except redis.WatchError:
                return "aborted"

    def pipeline(self, *commands: Command) -> Any:
        with self.redis.pipeline(transaction=False) as pipe:
            for name, key, *rest in commands:
                pipe.execute_command(name, self.key(key), *rest)
            return pipe.execute()

    def both(self, *commands: Command) -> Any:
        with self.redis.pipeline(transaction=True) as pipe:
            for name, key, *rest in commands:
                pipe.execute_command(name, self.key(key), *rest)
            return pipe.execute()

    def script(self, name: str, one: str, other: str) -> Any:
        """As redis-py does it: EVALSHA, then EVAL if the server does not know the script."""
        return self.redis.register_script(SCRIPTS[name])(keys=[self.key(one), self.key(other)])

    def pop(self, key: str, timeout_s: float) -> Any:
        return self.redis.blpop(self.key(key), timeout_s)

    def wait(self, key: str) -> Any:
        """Subscribe, and wait for at most 5 s."""
        with self.redis.pubsub(ignore_subscribe_messages=True) as news:
            news.subscribe(self.key(key))
            news.get_message(timeout=0)
            found = news.get_message(timeout=5)
        return found and found["data"]

    def remember(self, word: str) -> None:
        self.memory.append(word)

    def recall(self) -> str:
        return " ".join(self.memory)

    def learn(self, key: str) -> None:
        """Keep in memory a value that another actor of the pod may have changed since it was read."""
        self.memory.append(plain(self.redis.get(self.key(key))))

    def now(self) -> str:
        return f"{self.env.runtime.now():.0f}"

    def sleep(self, seconds: float) -> None:
        self.env.runtime.sleep(seconds)

    def clock(self) -> Any:
        return self.redis.time()


def plain(reply: Any) -> str:
    """A reply as text: the same for bytes and str, the members of a set sorted."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list | tuple):
        return "[" + ", ".join(map(plain, reply)) + "]"
    if isinstance(reply, set):
        return plain(sorted(reply))
    if isinstance(reply, dict):
        return plain(sorted(reply.items()))
    return str(reply)
