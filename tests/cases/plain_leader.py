"""A leader of periodic work, on asyncio: nothing here knows of podrace."""

import asyncio
import uuid

import redis.asyncio as redis

TICK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], 3000)
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""


class Leader:
    """Extends the lease without asking whose it is."""

    def __init__(self):
        self.redis = redis.Redis(decode_responses=True)
        self.name = uuid.uuid4().hex[:8]

    async def lead(self):
        if not await self.redis.set("leader", self.name, nx=True, px=3000):
            return "follower"
        for _ in range(2):
            if not await self.tick():
                return "deposed"
            await asyncio.sleep(1)
        return "led"

    async def tick(self):
        if not await self.redis.pexpire("leader", 3000):
            return False
        await self.redis.rpush("work", self.name)
        return True


class OneScript(Leader):
    """Extends only its own lease, and enqueues in the same script."""

    async def tick(self):
        return bool(await self.redis.eval(TICK, 2, "leader", "work", self.name))
