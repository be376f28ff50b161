"""Time and concurrency as a pod sees them. Nothing else in this package reads a clock or starts a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Runtime(Protocol):
    """What a pod needs; the simulator brings a virtual one."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def spawn(self, name: str, function: Callable[[], None]) -> None: ...

    def lock(self) -> AbstractContextManager[Any]:
        """A re-entrant mutex between the actors of one pod."""
        ...


class ThreadRuntime:
    """The real one: the system's clock, daemon threads."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        threading.Thread(target=function, name=name, daemon=True).start()

    def lock(self) -> AbstractContextManager[Any]:
        return threading.RLock()
