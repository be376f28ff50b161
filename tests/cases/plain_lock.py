"""A lock that its owner releases: nothing here knows of podrace."""

import uuid

import redis

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Worker:
    """WATCH, GET, DEL: without MULTI the WATCH watches nothing."""

    def __init__(self, enter, leave):
        self.redis = redis.Redis()
        self.enter, self.leave = enter, leave
        self.token = str(uuid.uuid4())

    def work(self):
        if not self.redis.set("lock", self.token, nx=True, px=1000):
            return "busy"
        self.enter(self.token[:4])
        self.leave(self.token[:4])
        self.release()
        return "done"

    def release(self):
        with self.redis.pipeline() as pipe:
            pipe.watch("lock")
            if pipe.get("lock") == self.token.encode():
                pipe.delete("lock")


class OneScript(Worker):
    def release(self):
        self.redis.eval(RELEASE, 1, "lock", self.token)


class LibrarysLock(Worker):
    """redis-py's own lock, whose release is a script."""

    def work(self):
        lock = self.redis.lock("lock", timeout=1, blocking=False)
        if not lock.acquire():
            return "busy"
        self.enter(self.token[:4])
        self.leave(self.token[:4])
        try:
            lock.release()
        except redis.exceptions.LockError:
            return "late"
        return "done"
