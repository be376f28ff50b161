"""Small programs over asynchronous clients of Redis, each with clients that it makes for itself."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio import Redis
from redis.exceptions import LockError, ResponseError, WatchError

import podrace

SHORT_S = 0.01


async def texts(url: str) -> Any:
    client = aioredis.from_url(url, decode_responses=True)
    told = [
        await client.set("a", "ü"),
        await client.get("a"),
        await client.set("a", "2", nx=True),
        await client.delete("a"),
    ]
    async with Redis.from_url(url) as other:
        told += [await other.set("b", 1, ex=100), await other.ttl("b"), await other.get("b"), await other.ping()]
    await client.aclose()
    return told, isinstance(client, Redis)


async def kinds(url: str) -> Any:
    client = aioredis.from_url(url, decode_responses=True)
    await asyncio.gather(
        client.rpush("list", "a", "b"), client.hset("hash", mapping={"one": 1}), client.sadd("set", "x")
    )
    told = [await client.lrange("list", 0, -1), await client.hgetall("hash"), await client.smembers("set")]
    told += [sorted([key async for key in client.scan_iter("*")]), await client.zadd("z", {"low": 1, "high": 2.5})]
    told.append(await client.zrange("z", 0, -1, withscores=True))
    await client.aclose()
    return told


async def pipelines(url: str) -> Any:
    client = aioredis.from_url(url)
    async with client.pipeline(transaction=True) as pipe:
        told: list[Any] = [await pipe.incr("n").incrby("n", 4).get("n").execute()]
    async with client.pipeline(transaction=False) as pipe:
        pipe.set("x", 1)
        pipe.get("x")
        told.append(await pipe.execute())
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        seen = int(await pipe.get("n"))
        await client.incr("n")
        pipe.multi()
        pipe.set("n", seen + 10)
        try:
            told.append(await pipe.execute())
        except WatchError:
            told.append("changed")
    told.append(await client.get("n"))
    await client.aclose()
    return told


async def scripts(url: str) -> Any:
    client = aioredis.from_url(url)
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    told = [await add(keys=["n"], args=[2]), await add(keys=["n"], args=[3]), await client.eval("return {1, 'two'}", 0)]
    await client.aclose()
    return told


async def locks(url: str) -> Any:
    client = aioredis.from_url(url)
    one, other = client.lock("lock", timeout=60), client.lock("lock", timeout=60)
    told: list[Any] = [await one.acquire(), await other.acquire(blocking=False), await one.owned()]
    told.append(await other.acquire(blocking_timeout=SHORT_S))
    await one.release()
    async with client.lock("lock", timeout=60):
        told.append(await other.locked())
    try:
        await one.release()
    except LockError:
        told.append("not held")
    await client.aclose()
    return told


async def blocking(url: str) -> Any:
    client = aioredis.from_url(url, decode_responses=True)
    told: list[Any] = [await client.blpop(["jobs"], timeout=SHORT_S)]
    waiting = asyncio.create_task(client.blpop(["jobs"], timeout=60))
    await asyncio.sleep(SHORT_S)
    told += [await client.rpush("jobs", "one"), await waiting]
    await client.aclose()
    return told


async def published(url: str) -> Any:
    client = aioredis.from_url(url, decode_responses=True)
    told: list[Any] = []
    async with client.pubsub() as listener:
        await listener.subscribe("news")
        told.append(await listener.get_message(timeout=60))
        told += [await client.publish("news", "one"), await listener.get_message(timeout=60)]
        told.append(await listener.get_message(timeout=SHORT_S))
        await client.publish("news", "two")
        async for message in listener.listen():
            told.append(message)
            break
    await client.aclose()
    return told


async def stops_listening(url: str) -> Any:
    """Stops as a service does: cancels its listener, then closes its connection."""
    client = aioredis.from_url(url, decode_responses=True)
    listener = client.pubsub()
    await listener.subscribe("news")
    told: list[Any] = []

    async def listen() -> None:
        async for message in listener.listen():
            told.append(message["type"])

    task = asyncio.create_task(listen())
    await client.publish("news", "one")
    await asyncio.sleep(5 * SHORT_S)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        told.append("cancelled")
    await listener.aclose()
    told += [await client.publish("news", "two"), await client.set("a", 1), await client.get("a")]
    await client.aclose()
    return told


async def errors(url: str) -> Any:
    client, told = aioredis.from_url(url), []
    await client.set("text", "x")
    for wrong in (client.incr("text"), client.execute_command("NO")):
        try:
            await wrong
        except ResponseError as error:
            told.append(type(error).__name__)
    await client.aclose()
    return told


class Store(Redis):
    async def count(self, name: str) -> int:
        return int(await self.incr(name))


async def subclass(url: str) -> Any:
    store = Store.from_url(url)
    told = [await store.count("n"), await store.count("n"), isinstance(store, Store)]
    await store.aclose()
    return told


async def pools(url: str) -> Any:
    pool = aioredis.ConnectionPool.from_url(url, decode_responses=True)
    client = Redis(connection_pool=pool)
    told = await client.set("a", "x"), await client.get("a")
    await client.aclose()
    await pool.disconnect()
    return told


PROGRAMS = {
    program.__name__: program
    for program in (
        texts,
        kinds,
        pipelines,
        scripts,
        locks,
        blocking,
        published,
        stops_listening,
        errors,
        subclass,
        pools,
    )
}


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Programs()


class Programs:
    async def run(self, name: str, url: str) -> Any:
        return repr(await PROGRAMS[name](url))
