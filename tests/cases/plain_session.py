"""A session in a blob, on asyncio: nothing here knows of podrace."""

import json

import redis.asyncio as redis


class Session:
    """GET, GET, SET, SET."""

    def __init__(self):
        self.redis = redis.from_url("redis://redis.example.com", decode_responses=True)

    async def login(self):
        await self.redis.set("session", "{}")

    async def logout(self):
        await self.redis.delete("session")

    async def put(self, name, value):
        held = await self.redis.get("session")
        if held is None:
            return "gone"
        await self.redis.set("session", json.dumps({**json.loads(held), name: value}))
        return "put"


class Watched(Session):
    """WATCH and MULTI, retried if somebody was faster; a deleted session is not written back."""

    async def put(self, name, value):
        while True:
            async with self.redis.pipeline() as pipe:
                await pipe.watch("session")
                held = await pipe.get("session")
                if held is None:
                    return "gone"
                pipe.multi()
                pipe.set("session", json.dumps({**json.loads(held), name: value}))
                try:
                    await pipe.execute()
                except redis.WatchError:
                    continue
                return "put"
