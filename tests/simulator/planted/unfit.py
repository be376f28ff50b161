"""Targets that cannot be judged: each gets one clear error, and never a pass."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import multiprocess

from planted.correct import Correct, Placeholder
from podrace.simulator.target import PodEnv


class OwnRandomness(Correct):
    def seen(self, user_id: str, message_id: str) -> str:
        return f"{self.env.prefix}seen:{uuid.uuid4()}"


class AnotherWayAfterAFault(Correct):
    """Does something else each time, but only after a fault."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        try:
            super().accept(user_id, message_id, parts)
        except Exception:
            self.env.redis.set(f"{self.env.prefix}failed", time.perf_counter_ns(), px=1000)
            raise


class WallClock(Correct):
    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.redis.set(f"{self.env.prefix}accepted_at", time.perf_counter_ns(), px=1000)
        super().accept(user_id, message_id, parts)


class OwnThread(Correct):
    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        thread = threading.Thread(target=lambda: self.env.redis.get(f"{self.env.prefix}x"), daemon=True)
        thread.start()
        super().accept(user_id, message_id, parts)


class OwnThreadJoined(Correct):
    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        thread = threading.Thread(target=lambda: self.env.memory.send(user_id, parts), daemon=True)
        thread.start()
        thread.join()
        super().accept(user_id, message_id, parts)


class Spawner(Correct):
    """Spawns an actor, but from a thread of its own."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        spawn = threading.Thread(target=lambda: self.env.runtime.spawn("late", lambda: None), daemon=True)
        spawn.start()
        spawn.join()
        super().accept(user_id, message_id, parts)


class Blocks(Correct):
    def absorb(self, user_id: str) -> int:
        threading.Event().wait()
        return 0


class Spins(Correct):
    def absorb(self, user_id: str) -> int:
        while True:
            pass


class Polls(Correct):
    def absorb(self, user_id: str) -> int:
        while True:
            self.env.redis.get(f"{self.env.prefix}never")


class SwallowsAll(Correct):
    """Polls for ever: it swallows every error, even its pod's death."""

    def absorb(self, user_id: str) -> int:
        while True:
            try:
                self.env.redis.get(f"{self.env.prefix}never")
            except BaseException:
                pass


class Sleeps(Correct):
    """Sleeps for a second before it absorbs, and then counts."""

    def absorb(self, user_id: str) -> int:
        self.env.runtime.sleep(1)
        self.env.redis.incr(f"{self.env.prefix}count")
        return super().absorb(user_id)


class SpinsAndSwallowsAll(Correct):
    """Spins without ever reaching a gate, and swallows every error."""

    def absorb(self, user_id: str) -> int:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass


class SwallowsAWhile(Correct):
    """Treats its pod's death as an error of Redis, up to five times."""

    def absorb(self, user_id: str) -> int:
        for _ in range(5):
            try:
                self.env.redis.get(f"{self.env.prefix}never")
            except BaseException:
                pass
        return super().absorb(user_id)


class RaisesEverywhere(Correct):
    def add_message(self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str) -> NoReturn:
        raise RuntimeError("not today")

    def absorb(self, user_id: str) -> NoReturn:
        raise RuntimeError("not today")

    def upload_status(self, placeholder: Placeholder) -> NoReturn:
        raise RuntimeError("not today")


class WrongArgument(Correct):
    """Passes redis-py an argument that it refuses."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.redis.set(f"{self.env.prefix}x", parts)  # type: ignore[arg-type]


class Locks(Correct):
    """Holds a lock between its actors while another waits for it: fit to be judged."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.lock = env.runtime.lock()

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        with self.lock:
            super().accept(user_id, message_id, parts)

    def absorb(self, user_id: str) -> int:
        with self.lock:
            return super().absorb(user_id)


class LeavesACall(Correct):
    def absorb(self, user_id: str) -> NoReturn:
        raise SystemExit(0)


class LeavesASpawnedActor(Correct):
    def absorb(self, user_id: str) -> int:
        self.env.runtime.spawn("leaver", lambda: sys.exit(0))
        return super().absorb(user_id)


class AsksTheServersClock(Correct):
    """Reads TIME in a script, where the harness cannot control it."""

    def absorb(self, user_id: str) -> int:
        self.env.redis.eval("return redis.call('TIME')", 0)
        return super().absorb(user_id)


class MainThreadAlone(Correct):
    """Delivers only from the main thread, on which no server runs its requests."""

    def absorb(self, user_id: str) -> int:
        return super().absorb(user_id) if threading.current_thread() is threading.main_thread() else 0


class OneProcess:
    """Works in the process of the test alone."""

    def __init__(self, env: PodEnv) -> None:
        self.in_child = multiprocess.parent_process() is not None

    def greet(self, name: str) -> str:
        if self.in_child:
            raise ValueError("not in a child")
        return name


class ByThread:
    """Keeps by thread who calls: calls of pods in one process overwrite it, as they share a thread there."""

    def __init__(self, env: PodEnv) -> None:
        self._redis = env.redis
        self._of_thread = threading.local()

    def greet(self, name: str) -> str:
        self._of_thread.name = name
        self._redis.ping()
        return str(self._of_thread.name)


class NoAbsorb:
    """Lacks a method that the scenario calls."""

    def __init__(self, env: PodEnv) -> None:
        self.add_message = Correct(env).add_message


class Coroutine(Correct):
    async def absorb(self, user_id: str) -> int:  # type: ignore[override]
        return 0


def raising(env: PodEnv) -> NoReturn:
    raise RuntimeError("no settings")


def no_pod(env: PodEnv) -> None:
    """Forgets to return the pod."""


def leaving(env: PodEnv) -> NoReturn:
    raise SystemExit(0)


class OddCommand(Correct):
    """Sends commands whose keys are in no table of ours: fit to be judged."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.redis.xgroup_create(f"{self.env.prefix}stream", "group", mkstream=True)
        self.env.redis.flushall()
        super().accept(user_id, message_id, parts)
