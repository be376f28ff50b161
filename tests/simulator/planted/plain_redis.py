"""Small programs over Redis, each with clients that it makes for itself."""

from __future__ import annotations

import threading
from typing import Any

import redis
from redis.client import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import LockError, WatchError

import podrace

SHORT_S = 0.01


def texts(url: str) -> Any:
    client = redis.from_url(url, decode_responses=True)
    other = redis.Redis.from_url(url)
    told = [
        client.set("a", "ü"),
        client.get("a"),
        other.get("a"),
        client.set("a", "2", nx=True),
        client.delete("a", "b"),
    ]
    return (
        told,
        client.ping(),
        isinstance(client, redis.Redis),
        isinstance(client, Redis),
        issubclass(LostError, Exception),
    )


def kinds(url: str) -> Any:
    with redis.from_url(url, decode_responses=True) as client:
        client.rpush("list", "a", "b")
        client.hset("hash", mapping={"one": 1, "two": "2"})
        client.sadd("set", "x")
        client.zadd("zset", {"low": 1, "high": 2.5})
        told = [client.lrange("list", 0, -1), client.hgetall("hash"), client.smembers("set")]
        told += [client.zrange("zset", 0, -1, withscores=True), sorted(client.scan_iter("*")), client.type("hash")]
        told += [client.expire("list", 100), client.ttl("list"), client.ttl("hash"), client.ttl("none")]
    return told


def pipelines(url: str) -> Any:
    client = redis.from_url(url)
    with client.pipeline(transaction=True) as pipe:
        told: list[Any] = [pipe.incr("n").incrby("n", 4).get("n").execute()]
    told.append(client.pipeline(transaction=False).set("x", 1).get("x").execute())
    with client.pipeline() as pipe:
        pipe.watch("n")
        seen = int(pipe.get("n"))  # type: ignore[arg-type]
        client.incr("n")
        pipe.multi()
        pipe.set("n", seen + 10)
        try:
            told.append(pipe.execute())
        except WatchError:
            told.append("changed")
    client.transaction(lambda pipe: pipe.multi() or pipe.incr("n"), "n")
    return told, client.get("n")


def scripts(url: str) -> Any:
    client = redis.from_url(url)
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    return add(keys=["n"], args=[2]), add(keys=["n"], args=[3]), client.eval("return {1, 'two'}", 0)


def locks(url: str) -> Any:
    client = redis.from_url(url)
    one, other = client.lock("lock", timeout=60), redis.lock.Lock(client, "lock", timeout=60)
    told: list[Any] = [
        one.acquire(),
        other.acquire(blocking=False),
        other.acquire(blocking_timeout=SHORT_S),
        one.owned(),
    ]
    one.release()
    with client.lock("lock", timeout=60, blocking_timeout=60) as held:
        told += [held.locked(), other.locked(), held.extend(5)]
    try:
        one.release()
    except LockError:
        told.append("not held")
    return told, client.exists("lock")


def blocking(url: str) -> Any:
    client, other = redis.from_url(url), redis.from_url(url, decode_responses=True)
    told: list[Any] = [client.blpop("jobs", timeout=SHORT_S)]
    giver = threading.Timer(SHORT_S, other.rpush, args=("jobs", "one", "two"))
    giver.start()
    told += [client.blpop(["jobs"], timeout=60), other.brpop("jobs", timeout=60)]
    giver.join()
    return told


def published(url: str) -> Any:
    client = redis.from_url(url, decode_responses=True)
    told: list[Any] = [client.publish("news", "nobody hears")]
    listener = client.pubsub()
    listener.subscribe("news")
    told.append(listener.get_message(timeout=60))
    told += [client.publish("news", "one"), listener.get_message(timeout=60), listener.get_message(timeout=SHORT_S)]
    sender = threading.Timer(SHORT_S, client.publish, args=("news", "two"))
    sender.start()
    told.append(listener.get_message(ignore_subscribe_messages=True, timeout=60))
    sender.join()
    listener.close()
    return told


class Store(redis.Redis):
    """A subclass of the client with one more method."""

    def count(self, name: str) -> int:
        return int(self.incr(name))


def subclass(url: str) -> Any:
    store = Store.from_url(url)
    return store.count("n"), store.count("n"), isinstance(store, Store), isinstance(store, redis.Redis), store.get("n")


def pools(url: str) -> Any:
    pool = redis.ConnectionPool.from_url(url, decode_responses=True, max_connections=4)
    first, second = redis.Redis(connection_pool=pool), redis.StrictRedis(connection_pool=pool)
    told = first.set("a", "x"), second.get("a")
    pool.disconnect()
    first.close()
    third = redis.Redis(connection_pool=first.connection_pool)
    return told, first.get("a"), third.get("a")


def errors(url: str) -> Any:
    client = redis.from_url(url)
    client.set("text", "x")
    told = []
    for wrong in (lambda: client.incr("text"), lambda: client.lpush("text", 1), lambda: client.execute_command("NO")):
        try:
            wrong()
        except redis.ResponseError as error:
            told.append(type(error).__name__)
    return told


def threads(url: str) -> Any:
    client = redis.from_url(url)
    workers = [threading.Thread(target=client.incr, args=("n",)) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return client.get("n")


PROGRAMS = {
    program.__name__: program
    for program in (
        texts, kinds, pipelines, scripts, locks, blocking, published, subclass, pools, errors, threads,
    )
}  # fmt: skip


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Programs()


class Programs:
    def run(self, name: str, url: str) -> Any:
        return repr(PROGRAMS[name](url))
