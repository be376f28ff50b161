"""A registry of tasks in Redis and in a dict, the tasks done by a pool of threads: nothing here knows of podrace."""

import threading
from concurrent.futures import ThreadPoolExecutor

import redis


class Registry:
    """Looks only into the dict."""

    def __init__(self):
        self.redis = redis.from_url("redis://redis.example.com", decode_responses=True)
        self.pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="task")
        self.lock = threading.RLock()
        self.tasks = {}

    def submit(self, task):
        self.redis.set(f"task:{task}", "submitted", ex=3600)
        with self.lock:
            self.tasks[task] = "submitted"
        self.pool.submit(self._run, task)

    def _run(self, task):
        self.redis.set(f"task:{task}", "running", ex=3600)
        with self.lock:
            self.tasks[task] = "running"

    def status(self, task):
        with self.lock:
            return self.tasks.get(task, "404")


class RedisFirst(Registry):
    def status(self, task):
        return self.redis.get(f"task:{task}") or super().status(task)
