"""What the promise of `durable` rests on: a server that keeps what it has acknowledged. Looked at when a pod starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

if TYPE_CHECKING:
    import redis


class NotDurableError(RuntimeError):
    """The server may lose what it has acknowledged, and `durability="refuse"`: the text names what to configure."""


def damages(client: redis.Redis, *, replicas: int) -> Iterable[str]:
    """What the promise rests on and this server does not give, each with the line of configuration to change."""
    try:
        settings: Any = client.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    except RedisError as error:
        yield f"CONFIG GET failed ({error}): make sure of `appendonly yes`, `maxmemory-policy noeviction`"
        return
    if settings.get("appendonly") != "yes":
        yield "a restart loses what was accepted: set `appendonly yes` and `appendfsync always`"
    elif settings.get("appendfsync") != "always":
        yield "a crash loses the last second of what was accepted: set `appendfsync always`"
    if settings.get("maxmemory", "0") != "0" and settings.get("maxmemory-policy") != "noeviction":
        yield "a full server drops keys: set `maxmemory-policy noeviction`"
    if replicas and client.info("replication").get("connected_slaves", 0) < replicas:
        yield f"fewer than {replicas} replicas are connected: add some, or lower the option `wait_replicas`"
