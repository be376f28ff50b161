"""Runs a small program as plain code, on threads or on asyncio: `test_programs.py` makes them at random."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from typing import Any

import redis
import redis.asyncio as aioredis

import podrace
from cases.programs import plain

Command = tuple[Any, ...]


class Threaded:
    """`run` runs the commands in the scenario's options and returns all that they saw."""

    def __init__(self, programs: Any) -> None:
        self.programs = programs
        self.redis = redis.Redis()
        self.memory: list[str] = []
        self.lock, self.event, self.queue = threading.Lock(), threading.Event(), queue.Queue()

    def run(self, name: str) -> list[str]:
        replies = ["none"]
        for command in self.programs[name]:
            replies.append(self.attempt(command, replies[-1]))
        return replies[1:]

    def attempt(self, command: Command, last: str) -> str:
        try:
            return plain(self.do(command[0], *[last if word == "<" else word for word in command[1:]]))
        except (redis.ResponseError, queue.Empty) as error:
            return f"refused: {type(error).__name__}"

    def do(self, name: str, *args: Any) -> Any:
        own = getattr(self, f"do_{name.lower()}", None)
        return own(*args) if own else self.redis.execute_command(name, *args)

    def do_locked(self, *command: Any) -> Any:
        with self.lock:
            self.memory.append("(")
            reply = self.do(*command)
            self.memory.append(")")
            return reply

    def do_spawn(self, *command: Any) -> None:
        threading.Thread(target=lambda: self.memory.append(self.attempt(command, "none"))).start()

    def do_join(self, *command: Any) -> str:
        """Wait for at most 2 s for a thread."""
        thread = threading.Thread(target=lambda: self.memory.append(self.attempt(command, "none")))
        thread.start()
        thread.join(2)
        return f"alive {thread.is_alive()} {self.do_recall()}"

    def do_learn(self, key: str) -> None:
        self.memory.append(plain(self.redis.get(key)))

    def do_remember(self, word: str) -> None:
        self.memory.append(word)

    def do_recall(self) -> str:
        return " ".join(self.memory)

    def do_set_event(self) -> None:
        self.event.set()

    def do_wait_event(self, seconds: float) -> bool:
        return self.event.wait(seconds)

    def do_put(self, word: str) -> None:
        self.queue.put(word)

    def do_take(self, seconds: float) -> Any:
        return self.queue.get(timeout=seconds)

    def do_sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Asynchronous:
    """The same on asyncio."""

    def __init__(self, programs: Any) -> None:
        self.programs = programs
        self.redis = aioredis.Redis()
        self.memory: list[str] = []
        self.tasks: set[Any] = set()
        self.lock, self.event, self.queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue()

    async def run(self, name: str) -> list[str]:
        replies = ["none"]
        for command in self.programs[name]:
            replies.append(await self.attempt(command, replies[-1]))
        return replies[1:]

    async def attempt(self, command: Command, last: str) -> str:
        try:
            return plain(await self.do(command[0], *[last if word == "<" else word for word in command[1:]]))
        except (redis.ResponseError, asyncio.QueueEmpty) as error:
            return f"refused: {type(error).__name__}"

    async def do(self, name: str, *args: Any) -> Any:
        own = getattr(self, f"do_{name.lower()}", None)
        return await (own(*args) if own else self.redis.execute_command(name, *args))

    async def remembered(self, command: Command) -> None:
        self.memory.append(await self.attempt(command, "none"))

    async def do_locked(self, *command: Any) -> Any:
        async with self.lock:
            self.memory.append("(")
            try:
                return await self.do(*command)
            finally:
                self.memory.append(")")

    async def do_spawn(self, *command: Any) -> None:
        task = asyncio.create_task(self.remembered(command))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def do_join(self, *command: Any) -> str:
        """Wait for both tasks at once, for at most 2 s."""
        try:
            async with asyncio.timeout(2), asyncio.TaskGroup() as group:
                group.create_task(self.remembered(command))
                group.create_task(self.remembered(("GET", "x")))
        except TimeoutError:
            self.memory.append("late")
        return await self.do_recall()

    async def do_learn(self, key: str) -> None:
        self.memory.append(plain(await self.redis.get(key)))

    async def do_remember(self, word: str) -> None:
        self.memory.append(word)

    async def do_recall(self) -> str:
        return " ".join(self.memory)

    async def do_set_event(self) -> None:
        self.event.set()

    async def do_wait_event(self, seconds: float) -> str:
        try:
            return str(await asyncio.wait_for(self.event.wait(), seconds))
        except TimeoutError:
            return "late"

    async def do_put(self, word: str) -> None:
        await self.queue.put(word)

    async def do_take(self, seconds: float) -> Any:
        try:
            return await asyncio.wait_for(self.queue.get(), seconds)
        except TimeoutError:
            return "late"

    async def do_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@podrace.own()
def threaded(env: podrace.PodEnv) -> Any:
    return Threaded(env.options["programs"])


@podrace.own()
def asynchronous(env: podrace.PodEnv) -> Any:
    return Asynchronous(env.options["programs"])
