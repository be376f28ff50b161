"""Clients that plain code makes for itself: whatever address they name, they lead to the run's server and services."""

from __future__ import annotations

import asyncio
from typing import Any

import redis as real_redis

from podrace.simulator.world.client import another
from podrace.simulator.world.plain.inside import Here, Inside

KEPT = ("decode_responses", "encoding", "encoding_errors")
"""What of a client's options changes how it behaves towards whoever uses it."""


class Made:
    """Mixed into a client: the other ways to make one."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Any:
        return cls.from_pool(real_redis.ConnectionPool.from_url(url, **options))

    @classmethod
    def from_pool(cls, connection_pool: Any) -> Any:
        return cls(connection_pool=connection_pool)  # type: ignore[call-arg]


def redis_names(here: Here) -> dict[str, Any]:
    """`Redis`, `from_url` and pools. A client is the pod's own, whichever class it is asked of."""

    class Facade(type(real_redis.Redis)):  # type: ignore[misc]
        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, real_redis.Redis) if cls is Redis else super().__instancecheck__(thing)

    class Redis(Made, real_redis.Redis, metaclass=Facade):
        def __new__(cls, *args: Any, **options: Any) -> Any:
            made = client_of(here(), named(args, options))
            if cls is Redis:
                return made
            own = type(cls.__name__, (cls, type(made)), {"__init__": lambda self, *_, **__: None})
            thing: Any = object.__new__(own)
            vars(thing).update(vars(made))
            return thing

    return names_with(Redis, here)


def names_with(client: Any, here: Here) -> dict[str, Any]:
    """What leads to clients of this class, in `redis` as in `redis.asyncio`. Pools are real, but not connected by."""

    def cannot(*_: Any, **__: Any) -> Any:
        here().refuse("talks to a cluster or a sentinel", "use Redis: one node is what can be led")

    return {
        "Redis": client, "StrictRedis": client, "from_url": client.from_url, "RedisCluster": cannot, "Sentinel": cannot,
    }  # fmt: skip


_PLACES = ("host", "port", "db", "password")
"""The first arguments of redis.Redis, by place."""


def named(args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """A client's options by name, those of its pool among them."""
    found = dict(zip(_PLACES, args, strict=False)) | options
    if found.get("unix_socket_path") is not None:
        found["path"] = found.pop("unix_socket_path")
    pool = found.get("connection_pool")
    return found | (pool.connection_kwargs if pool is not None else {})


def client_of(inside: Inside, options: dict[str, Any]) -> Any:
    """The pod's client with these options. Refuses a second server or database: there is one."""
    pool = options.get("connection_pool")
    for known in (inside.env.redis, *vars(inside.env.redis).get("others", {}).values()):
        if pool is known.connection_pool:  # taken from a client that this has made
            return known
    path = options.get("path")
    place = path or f"{options.get('host') or 'localhost'}:{options.get('port') or 6379}"
    address = f"{place}, database {options.get('db') or 0}"
    first = inside.addresses.setdefault("redis", address)
    if first != address:
        inside.refuse(f"talks to two Redis servers or databases ({first}; {address})", "let it use one of them")
    kept = {name: options[name] for name in KEPT if options.get(name) is not None}
    return another(inside.env.redis, kept) if kept else inside.env.redis


def genai_names(here: Here) -> dict[str, Any]:
    class Part:
        """A part of the client that is there; of any other the pod is told that it cannot be led."""

        def __init__(self, **parts: Any) -> None:
            vars(self).update(parts)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            here().refuse(f"uses .{name} of Gemini's client", "the Files API is there; make the rest a service")

    def client(*_: Any, **__: Any) -> Any:
        inside = here()
        if "gemini" not in inside.env.services:
            inside.refuse("makes a client of Gemini", "give the scenario a workload with a service named gemini")
        from podrace.simulator.world.plain.loop import Asked, request

        files = inside.env.services["gemini"]
        virtual = inside.gate.virtual
        awaited = Asked(files, lambda call: request(here, call) if virtual else asyncio.to_thread(call))
        return Part(files=files, aio=Part(files=awaited), close=lambda: None)

    return {"Client": client}
