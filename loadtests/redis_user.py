"""A Locust user for Redis: one request event for each operation, with its exact time and its exception."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import gevent
from locust import User
from locust.exception import RescheduleTask

from podrace.simulator.servers.connection import connect

RETRY_AFTER_S = 0.1
"""A user whose server does not answer waits so long: a dead server must not turn the run into a busy loop."""


class OperationFailedError(RescheduleTask):
    """The operation failed and has been counted; Locust goes on with the user's next task."""


class MeasuredClient:
    """A redis-py client whose every command is one request event: `client.get(key, name="GET status")`."""

    def __init__(self, user: RedisUser, client: Any) -> None:
        self._user = user
        self.redis = client

    def __getattr__(self, command: str) -> Callable[..., Any]:
        function = getattr(self.redis, command)

        def measured(*args: Any, name: str = command.upper(), **kwargs: Any) -> Any:
            return self._user.measure(name, function, *args, **kwargs)

        return measured


class RedisUser(User):
    """Base of users that talk to the server at `host`, `redis://…` or `unix://…`, each over one connection.

    `rate_per_s` is how many tasks it starts in a second, by a schedule that is never adjusted: a task that
    begins late is late, and its operations are measured from when they should have begun (`late_us` in
    the event's context). 0 is a closed loop, where nothing is intended and nothing can be late.
    """

    abstract = True
    rate_per_s: float = 0.0
    max_connections = 1

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.client = MeasuredClient(self, connect(self.host or "", max_connections=self.max_connections))
        self._fire = environment.events.request.fire
        self._due_s = 0.0
        self._context: dict[str, Any] = {"late_us": 0}
        self._fresh = True

    def on_start(self) -> None:
        if self.rate_per_s:
            gevent.sleep(random.random() / self.rate_per_s)  # users spawned together must not beat together
        self._due_s = time.perf_counter()

    def on_stop(self) -> None:
        self.client.redis.close()

    def wait_time(self) -> float:
        """Seconds until the next task is due; 0 where it is overdue. No slot is ever skipped."""
        self._fresh = True
        if not self.rate_per_s:
            return 0.0
        self._due_s += 1 / self.rate_per_s
        return max(0.0, self._due_s - time.perf_counter())

    def measure(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, fire one request event, return the result; OperationFailedError where it raised."""
        began_s = time.perf_counter()
        if self._fresh:
            # the first operation tells how late the whole task is; all that follow are as late
            self._fresh = False
            late_s = began_s - self._due_s if self.rate_per_s else 0.0
            self._context = {"late_us": max(0, int(late_s * 1e6))}
        result, failure = None, None
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            failure = error
        self._fire(
            request_type="redis",
            name=name,
            response_time=(time.perf_counter() - began_s) * 1000,
            response_length=0,
            exception=failure,
            context=self._context,
        )
        if failure is not None:
            if isinstance(failure, OSError) or "Connection" in type(failure).__name__:
                gevent.sleep(RETRY_AFTER_S)
            raise OperationFailedError from failure
        return result
