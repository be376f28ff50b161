"""A waiter for a published message, on asyncio: nothing here knows of podrace."""

import redis.asyncio as redis


class Waiter:
    """Looks first and then subscribes."""

    def __init__(self):
        self.redis = redis.Redis(decode_responses=True)

    async def finish(self):
        await self.redis.set("done", 1, ex=3600)
        await self.redis.publish("news", "done")

    async def wait(self):
        if await self.redis.get("done"):
            return "was done"
        async with self.redis.pubsub() as news:
            await news.subscribe("news")
            async for message in news.listen():
                if message["type"] == "message":
                    return "was told"
        return "left alone"


class SubscribesFirst(Waiter):
    """Subscribes, waits for the confirmation, then looks, and looks again from time to time."""

    async def wait(self):
        async with self.redis.pubsub() as news:
            await news.subscribe("news")
            while (message := await news.get_message(timeout=5)) is None or message["type"] != "subscribe":
                pass
            while not await self.redis.get("done"):
                await news.get_message(timeout=5)
        return "was done"
