"""An idempotency key, on asyncio: nothing here knows of podrace."""

import asyncio

import redis.asyncio as redis

DAY_S = 24 * 3600


class Payments:
    """Looks for the key, does the work, then writes the key."""

    def __init__(self, charge):
        self.redis = redis.Redis(decode_responses=True)
        self.charge = charge

    async def pay(self, request):
        known = await self.redis.get(f"result:{request}")
        if known is not None:
            return known
        await asyncio.to_thread(self.charge, f"charge {request}")
        await self.redis.set(f"result:{request}", "paid", ex=DAY_S)
        return "paid"


class MarkedFirst(Payments):
    """A caller that does not get the marker gets 409."""

    async def pay(self, request):
        known = await self.redis.get(f"result:{request}")
        if known is not None:
            return known
        if not await self.redis.set(f"processing:{request}", 1, nx=True, ex=DAY_S):
            return "409"
        return await super().pay(request)
