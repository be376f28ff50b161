"""Which modules plain code gets in another form, and what is put in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from podrace.simulator.world.plain import clients, small, threads
from podrace.simulator.world.plain.inside import Here
from podrace.simulator.world.view import Standard

COPIED = frozenset(
    {
        *("threading", "_threading_local", "queue", "sched", "timeit", "email.utils", "secrets"),
        *("concurrent.futures", "concurrent.futures._base", "concurrent.futures.thread"),
    }
)
HIDDEN = frozenset({"_queue"})
"""Written in C with nothing below it that could be replaced."""


def _lazily(module: str, function: str) -> Callable[[Here], Mapping[str, Any]]:
    """What takes long to import, and is not for everybody."""
    return lambda here: getattr(import_module(f"podrace.simulator.world.plain.{module}"), function)(here)


FACADES: Mapping[str, Callable[[Here], Mapping[str, Any]]] = {
    "_thread": threads.thread_names,
    "time": small.time_names,
    "datetime": small.datetime_names,
    "uuid": small.uuid_names,
    "random": small.random_names,
    "os": small.os_names,
    "socket": small.socket_names,
    "signal": small.signal_names,
    "pickle": small.pickle_names,
    "platform": lambda here: {"node": lambda: small.host_of(here)},
    "sys": small.sys_names,
    "importlib": small.importlib_names,
    "atexit": lambda here: {"register": lambda function, *_, **__: function},
    "redis": clients.redis_names,
    "redis.client": clients.redis_names,
    "redis.asyncio": _lazily("aclients", "aioredis_names"),
    "redis.asyncio.client": _lazily("aclients", "aioredis_names"),
    "asyncio": _lazily("loop", "asyncio_names"),
    "asyncio.runners": _lazily("loop", "asyncio_names"),
    "asyncio.events": _lazily("loop", "asyncio_names"),
    "google.genai": clients.genai_names,
    "google.genai.client": clients.genai_names,
}


FREE: Mapping[str, Callable[[Here], Mapping[str, Any]]] = {
    "redis": clients.redis_names,
    "redis.client": clients.redis_names,
    "redis.asyncio": _lazily("aclients", "free_names"),
    "redis.asyncio.client": _lazily("aclients", "free_names"),
    "google.genai": clients.genai_names,
    "google.genai.client": clients.genai_names,
}
"""For a pod that runs free, under the real clock: only its clients lead elsewhere."""


def standard(here: Here, *, free: bool = False) -> Standard:
    """What all pods of this process share. `here` finds the pod of whoever runs; `free`: it is the only one."""
    if free:
        facades = {name: partial(make, here) for name, make in FREE.items()}
        return Standard(copied=frozenset(), hidden=frozenset(), facades=facades, after={})
    base: Standard
    base = Standard(
        copied=COPIED,
        hidden=HIDDEN,
        facades={name: partial(make, here) for name, make in FACADES.items()},
        after={
            "threading": lambda module: threads.adapt_threading(
                module, here, lambda: base.load("_threading_local").local
            ),
            "concurrent.futures._base": lambda module: threads.adapt_futures(module, here),
            "concurrent.futures.thread": lambda module: threads.adapt_executor(module, here),
        },
    )
    base.load("threading")  # now, outside of any pod: who loads it is its main thread
    return base
