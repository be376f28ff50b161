"""A lock around some work, on asyncio, whose callers may go away: nothing here knows of podrace."""

import asyncio

import redis.asyncio as redis


class Careless:
    """Gives the lock back only if all goes well."""

    def __init__(self, work):
        self.redis = redis.Redis(decode_responses=True)
        self.work = work

    async def do(self, what):
        if not await self.redis.set("busy", what, nx=True):
            return "busy"
        await self.redis.incr("done")
        await self.redis.delete("busy")
        return "done"


class Finally(Careless):
    """Gives it back whatever happens, unless it is cancelled while it still waits for the reply to SET."""

    async def do(self, what):
        if not await self.redis.set("busy", what, nx=True):
            return "busy"
        try:
            await self.redis.incr("done")
        finally:
            await self.redis.delete("busy")
        return "done"


class Lease(Finally):
    """The lock is a lease: it ends by itself."""

    async def do(self, what):
        if not await self.redis.set("busy", what, nx=True, ex=30):
            return "busy"
        try:
            await self.redis.incr("done")
        finally:
            await self.redis.delete("busy")
        return "done"


class Between:
    """Sets the key `half` if its caller goes away after it has begun and before it has done anything."""

    def __init__(self, work):
        self.redis = redis.Redis(decode_responses=True)
        self.begun = False

    async def do(self, what):
        try:
            await self.redis.get("done")
            self.begun = True
            await self.redis.incr("done")
        except asyncio.CancelledError:
            if self.begun and not await self.redis.exists("done"):
                await self.redis.set("half", what)
            raise


class LatestOnly:
    """Keeps the last value; the request of a caller who has gone away may arrive late."""

    def __init__(self, work):
        self.redis = redis.Redis(decode_responses=True)

    async def say(self, what):
        await self.redis.set("last", what, ex=3600)
