"""What the promise of `durable` rests on: a server that keeps what it has acknowledged. Looked at when a pod starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import RedisError


class NotDurableError(RuntimeError):
    """The server may lose what it has acknowledged, and `durability="refuse"`: the text names what to configure."""


def damages(client: Any, *, replicas: int) -> Iterable[str]:
    """What the promise rests on and this server does not give, each with the line of configuration to change.

    In a Cluster every node is asked, replicas too: each may become the primary of some users.
    """
    if not hasattr(client, "get_nodes"):
        yield from _damages_of_node(client, replicas)
        return
    found: dict[str, list[str]] = {}
    for node in client.get_nodes():
        for damage in _damages_of_node(client.get_redis_connection(node), replicas):
            found.setdefault(damage, []).append(node.name)
    for damage, names in found.items():
        yield f"{damage} (on {', '.join(names)})"


def _damages_of_node(client: Any, replicas: int) -> Iterable[str]:
    try:
        settings = client.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
    except RedisError as error:
        yield f"CONFIG GET failed ({error}): make sure of `appendonly yes`, `maxmemory-policy noeviction`"
        return
    if settings.get("appendonly") != "yes":
        yield "a restart loses what was accepted: set `appendonly yes` and `appendfsync always`"
    elif settings.get("appendfsync") != "always":
        yield "a crash loses the last second of what was accepted: set `appendfsync always`"
    if settings.get("maxmemory", "0") != "0" and settings.get("maxmemory-policy") != "noeviction":
        yield "a full server drops keys: set `maxmemory-policy noeviction`"
    told = client.info("replication") if replicas else {}
    if told.get("role") == "master" and told.get("connected_slaves", 0) < replicas:
        yield f"fewer than {replicas} replicas are connected: add some, or lower the option `wait_replicas`"
