"""Two visits in each window: nothing here knows of podrace."""

import time

import redis

LIMIT = 2
WINDOW_S = 10
COUNT = """
local count = redis.call('INCR', KEYS[1])
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return count
"""


class Limiter:
    """INCR, and after the first one EXPIRE."""

    def __init__(self):
        self.redis = redis.Redis(host="redis.example.com")

    def visit(self):
        return self.count() <= LIMIT

    def visit_later(self):
        time.sleep(2 * WINDOW_S)
        return self.visit()

    def count(self):
        count = self.redis.incr("visits")
        if count == 1:
            self.redis.expire("visits", WINDOW_S)
        return count


class OneScript(Limiter):
    """A counter found without a time to live gets one."""

    def __init__(self):
        super().__init__()
        self.script = self.redis.register_script(COUNT)

    def count(self):
        return self.script(keys=["visits"], args=[WINDOW_S])
