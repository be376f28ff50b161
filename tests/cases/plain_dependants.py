"""The dependants of a job, on asyncio: nothing here knows of podrace."""

import asyncio

import redis.asyncio as redis


class Jobs:
    """Dependants are popped and enqueued before the status says finished."""

    def __init__(self):
        self.redis = redis.Redis(decode_responses=True)

    async def finish(self):
        while (dependant := await self.redis.lpop("dependants")) is not None:
            await self.redis.rpush("queue", dependant)
        await self.redis.set("status", "finished")

    async def register(self, job):
        where = "queue" if await self.redis.get("status") == "finished" else "dependants"
        await self.redis.rpush(where, job)


class InOneTransaction(Jobs):
    """Changes status and dependants in one transaction; registering watches the status."""

    async def finish(self):
        async with self.redis.pipeline() as pipe:
            pipe.set("status", "finished").lrange("dependants", 0, -1).delete("dependants")
            _, dependants, _ = await pipe.execute()
        async with asyncio.TaskGroup() as group:
            for dependant in dependants:
                group.create_task(self.redis.rpush("queue", dependant))

    async def register(self, job):
        while True:
            async with self.redis.pipeline() as pipe:
                await pipe.watch("status")
                status = await pipe.get("status")
                pipe.multi()
                pipe.rpush("queue" if status == "finished" else "dependants", job)
                try:
                    await pipe.execute()
                    return
                except redis.WatchError:
                    pass
