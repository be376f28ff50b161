"""Targets for which no verdict can be given: inconclusive, with a reason, and never a pass."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from typing import Any

import redis

from cases.common import Pod
from podrace import Call, PodEnv, Scenario

SCENARIO = Scenario("calls", {name: [Call(f"do {name}", "do")] for name in "AB"}, keeps=["*"])


def exits(env: PodEnv) -> Any:
    raise SystemExit(0)


class ExitsInCall(Pod):
    def do(self) -> None:
        raise SystemExit(0)


class ExitsInChild(Pod):
    def do(self) -> None:
        self.redis.set(self.key("x"), 1)
        self.env.runtime.spawn("child", self.leave)

    def leave(self) -> None:
        raise SystemExit(0)


class IsCancelled(Pod):
    """Raises CancelledError, which is not an Exception."""

    def do(self) -> None:
        self.redis.set(self.key("x"), 1)
        raise asyncio.CancelledError


class OwnThread(Pod):
    def do(self) -> None:
        thread = threading.Thread(target=lambda: self.redis.set(self.key("x"), 1))
        thread.start()
        thread.join()


class OwnClient(Pod):
    """The same racy code through a client that the harness does not see."""

    def do(self) -> None:
        settings = self.redis.connection_pool.connection_kwargs
        kind = redis.UnixDomainSocketConnection if "path" in settings else redis.Connection
        given = {name: settings[name] for name in ("path", "host", "port") if name in settings}
        own = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **given))
        held = int(own.get(self.key("count")) or 0)
        own.set(self.key("count"), held + 1)
        own.connection_pool.disconnect()


class Random(Pod):
    def do(self) -> None:
        self.redis.set(self.key("x"), random.SystemRandom().random())


class ReadsServerTime(Pod):
    def do(self) -> None:
        self.redis.eval("return redis.call('TIME')[1]", 0)


class NeverEnds(Pod):
    def do(self) -> None:
        while True:
            self.redis.get(self.key("x"))


class Coroutine(Pod):
    async def do(self) -> None:
        self.redis.get(self.key("x"))


class MissesTheMethod(Pod):
    pass


class AlwaysFails(Pod):
    def do(self) -> None:
        self.redis.get(self.key("x"))
        raise ValueError(f"pid {os.getpid() and 1}")
