"""A queue with a visibility timeout, worked on by threads: nothing here knows of podrace."""

import socket
import threading
import time

import redis

TIMEOUT_S = 60
WORK_S = 90
PUSH_BACK = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('RPUSH', KEYS[3], ARGV[1])
end
return 1
"""


class Queue:
    """Notes when a message was taken, but never that it is still being worked on."""

    def __init__(self, handle):
        self.redis = redis.Redis(decode_responses=True)
        self.handle = handle
        self.name = socket.gethostname()

    def put(self, message):
        self.redis.rpush("queue", message)

    def work(self):
        message = self.redis.lpop("queue")
        if message is None:
            return None
        self.redis.hset("unacked", message, self.name)
        self.redis.zadd("index", {message: time.time()})
        self.do(message)
        self.handle(message)
        self.redis.zrem("index", message)
        self.redis.hdel("unacked", message)
        return message

    def do(self, message):
        time.sleep(WORK_S)

    def take_over(self):
        """Another worker, which checks after a while whether a message was abandoned."""
        time.sleep(TIMEOUT_S + 10)
        for message in self.redis.zrangebyscore("index", "-inf", time.time() - TIMEOUT_S):
            self.redis.eval(PUSH_BACK, 3, "index", "unacked", "queue", message)
        return self.work()


class Renewing(Queue):
    """A thread renews the time stamp while the message is worked on."""

    def do(self, message):
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(message, done), name="renewer", daemon=True)
        renewer.start()
        super().do(message)
        done.set()
        renewer.join()

    def _renew(self, message, done):
        while not done.wait(WORK_S / 3):
            self.redis.zadd("index", {message: time.time()}, xx=True)
