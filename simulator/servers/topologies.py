"""Servers that are more than one node, behind Sentinels or a Cluster: a client of all, or the one node of a key.

    redis+sentinel://[user:password@]host:port[,host:port ...]/NAME[?db=N]     the primary of that name
    redis+cluster://[user:password@]host:port[,host:port ...]

The Sentinels themselves are asked without a password.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from podrace.simulator.errors import UsageError
from podrace.simulator.servers.connection import connect, redact

SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"


def has_several_nodes(url: str) -> bool:
    """Whether it has the form of a URL of Sentinels or of a Cluster."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme in (SENTINEL, CLUSTER)


def connect_to(url: str) -> Any:
    """A client of whatever the URL names, one node included. UsageError where it has another form.

    What it raises is redis-py's; nothing is retried, apart from what a Cluster's client does by itself.
    """
    if not has_several_nodes(url):
        return connect(url)
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    scheme, _, rest = url.partition("://")
    parts = urlsplit(f"//{rest}")
    logins, _, places = parts.netloc.rpartition("@")
    user, _, password = logins.partition(":")
    nodes = [_address(place, url) for place in places.split(",")]
    limits: dict[str, Any] = {"socket_connect_timeout": 1.0, "socket_timeout": 5.0, "retry": Retry(NoBackoff(), 0)}
    limits |= {"protocol": 2, "driver_info": None}
    login = {"username": unquote(user) or None, "password": unquote(password) or None}
    more: dict[str, Any] = {**limits, **login}
    if scheme == CLUSTER:
        from redis import cluster

        kinds: Any = cluster
        return kinds.RedisCluster(startup_nodes=[kinds.ClusterNode(*node) for node in nodes], **more)
    from redis import sentinel

    kinds = sentinel
    name, database = unquote(parts.path.strip("/")), parse_qs(parts.query).get("db", ["0"])[0]
    if not name or not database.isdigit():
        raise UsageError(f"server {redact(url)!r}: expected {SENTINEL}://host:port,…/NAME, and ?db=N where it is not 0")
    return kinds.Sentinel(nodes, sentinel_kwargs=limits).master_for(name, db=int(database), **more)


def _address(place: str, url: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"server {redact(url)!r}: expected host:port, or several of them with commas between")
    return host.strip("[]"), int(port)


def url_of_node(url: str, key: str) -> str:
    """Of the one node that has this key, and all keys with the same hash tag. Raises what `connect_to` and redis-py do.

    A run needs no other: the keys of all its pods bear one hash tag. It does not follow a failover.
    """
    with connect_to(url) as client:
        if url.startswith(CLUSTER):
            node = client.get_node_from_key(key)
            host, port, database = node.host, node.port, 0
        else:
            host, port = client.connection_pool.get_master_address()
            database = client.get_connection_kwargs()["db"]
    logins, separator, _ = url.partition("://")[2].rpartition("@")
    return f"redis://{logins}{separator}{f'[{host}]' if ':' in host else host}:{port}/{database}"
