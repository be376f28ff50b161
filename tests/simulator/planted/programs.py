"""A pod that runs small programs: lists of commands, in which `<` stands for the reply to the command before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import WatchError

from podrace.simulator.history.events import plain
from podrace.simulator.target import PodEnv

Program = Sequence[Sequence[Any]]


class Runner:
    def __init__(self, env: PodEnv) -> None:
        self.env = env
        self.memory: dict[str, str] = {}
        self.lock = env.runtime.lock()

    def run(self, program: Program) -> list[str]:
        """The reply of each command."""
        replies: list[str] = []
        for name, *args in program:
            last = replies[-1] if replies else "none"
            replies.append(plain(self.command(name, [last if arg == "<" else arg for arg in args])))
        return replies

    def command(self, name: str, args: list[Any]) -> Any:
        env = self.env
        if name == "SLEEP":
            return env.runtime.sleep(args[0])
        if name == "NOW":
            return f"{env.runtime.now():.0f}"
        if name == "SPAWN":
            return env.runtime.spawn("child", lambda: self.child(args[0]))
        if name == "PUT":
            return self.memory.update({args[0]: args[1]})
        if name == "READ":
            return self.memory.get(args[0])
        if name == "LOCKED":  # a read and a write while no other actor of the pod has the lock
            with self.lock:
                return self.command("SET", [args[0], f"{self.command('GET', [args[0]])}{args[1]}"])
        if name == "CAS":
            return self.transaction(*args)
        if name == "PIPE":
            return self.pipeline(args)
        if name == "EVAL":
            text, *keys = args
            return env.redis.eval(text, len(keys), *[env.prefix + key for key in keys])
        if name == "SCRIPT":
            text, *keys = args
            return env.redis.register_script(text)(keys=[env.prefix + key for key in keys])
        if name == "RAW":
            return env.redis.execute_command(*args)
        if name == "KEYS":
            return sorted(env.redis.keys(f"{env.prefix}*"))
        if name == "MGET":
            return env.redis.mget([env.prefix + key for key in args])
        if name == "SETEX":
            return env.redis.set(env.prefix + args[0], args[2], ex=args[1])
        return env.redis.execute_command(name, env.prefix + args[0], *args[1:])

    def child(self, program: Program) -> None:
        self.run(program)

    def transaction(self, watched: str, written: str) -> str:
        """Write one key if another has not changed meanwhile."""
        with self.env.redis.pipeline() as pipe:
            pipe.watch(self.env.prefix + watched)
            pipe.get(self.env.prefix + watched)
            pipe.multi()
            pipe.incr(self.env.prefix + written)
            try:
                return plain(pipe.execute())
            except WatchError:
                return "aborted"

    def pipeline(self, keys: list[str]) -> str:
        pipe = self.env.redis.pipeline(transaction=False)
        for key in keys:
            pipe.incr(self.env.prefix + key)
        return plain(pipe.execute())
