"""Libraries that bring a clock, randomness or threads of their own: here they get those of the pod that calls them.

redis-py's Lock makes its token from `uuid`, waits by `time` and keeps the token in a `threading.local`: under
a virtual clock all three must be the pod's. `logging` keeps in each record when it was made. Outside an actor they are
what they were.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from podrace.simulator.target import PodEnv
from podrace.simulator.world.clock import US_PER_S
from podrace.simulator.world.plain.threads import PerActor


@contextmanager
def led(current: Callable[[], PodEnv | None], actor: Callable[[], Any]) -> Iterator[None]:
    """Meanwhile redis-py's locks and logging ask the environment of the pod that is running, if `current` knows one."""
    import redis.asyncio.lock
    import redis.lock

    def now() -> float:
        env = current()
        return env.runtime.now() if env else time.monotonic()

    class LoggingTime:
        def time(self) -> float:
            env = current()
            return env.runtime.now() if env else time.time()

        def time_ns(self) -> int:  # since 3.13
            return round(self.time() * US_PER_S) * 1000

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    def sleep(seconds: float) -> None:
        env = current()
        (env.runtime.sleep if env else time.sleep)(seconds)

    def uuid1() -> uuid.UUID:
        env = current()
        return uuid.UUID(int=env.rng.getrandbits(128), version=4) if env else uuid.uuid1()

    module: Any = redis.lock
    asynchronous: Any = redis.asyncio.lock
    records: Any = logging
    before = module.mod_time, module.uuid, module.threading, asynchronous.uuid
    module.mod_time = SimpleNamespace(monotonic=now, sleep=sleep, time=now)
    module.uuid = asynchronous.uuid = SimpleNamespace(uuid1=uuid1)
    module.threading = SimpleNamespace(local=lambda: PerActor(actor) if current() else threading.local())
    records.time = LoggingTime()
    try:
        yield
    finally:
        records.time = time
        module.mod_time, module.uuid, module.threading, asynchronous.uuid = before
