"""A Locust user for Redis: one request event for each operation, with its exact time and its exception."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import gevent
from locust import User
from locust.exception import RescheduleTask

from podrace.loadtests.health import Health
from podrace.simulator.servers.connection import connect

RETRY_AFTER_S = 0.1
"""How long a user waits after its server did not answer: a dead server must not make the run a busy loop."""
KILLED_AFTER_S = 1.0
"""At the end Locust kills users that still wait. An operation that had waited for less than this is not a failure."""


class OperationFailedError(RescheduleTask):
    """The operation failed and has been counted; Locust goes on with the user's next task.

    `definite`: whether the failure says for certain that nothing was done.
    """

    definite = True


class KilledError(Exception):
    """The operation had not ended when its user was killed: at the end of the run, after --stop-timeout."""


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

    def pipeline(self, *, name: str = "PIPELINE", transaction: bool = True) -> Any:
        """redis-py's pipeline, whose `execute` is one operation of this name; its commands are counted."""
        pipeline = self.redis.pipeline(transaction=transaction)
        execute = pipeline.execute
        pipeline.execute = lambda: self._user.measure(name, execute, commands=len(pipeline))
        return pipeline


class RedisUser(User):
    """Base of users that talk to the run's server, each over one connection, `self.client`.

    `rate_per_s` is how many tasks it starts in a second, by a schedule that is never adjusted: a task that
    begins late is late, and its operations are measured from when they should have begun (`late_us` in
    the event's context). 0 is a closed loop, where nothing is intended and nothing can be late; None takes --rate.
    If this process woke the user up late, that is the generator's weakness, and Health counts it.

    `limited` names the operations that a run with such users must measure; `scenario` is for users of pods.
    """

    abstract = True
    rate_per_s: float | None = None
    rate_share = 1.0
    """Of --rate."""
    limited: tuple[str, ...] = ()
    scenario = ""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._session = session = environment.podrace
        self._health: Health = session.health
        # not Locust's own host, which stands on the page without its password
        self.client = MeasuredClient(self, connect(session.plan.redis_url, max_connections=1))
        self._fire = environment.events.request.fire
        self._paced = type(self).wait_time is RedisUser.wait_time  # a wait_time of Locust's intends no start
        self._rate = 0.0
        self._due_s = self._planned_s = 0.0
        self._excused_s = 0.0
        self._context: dict[str, Any] = {}
        self._fresh = True

    @property
    def prefix(self) -> str:
        """Of keys that are gone when the run is over."""
        prefix: str = self._session.plan.prefix
        return prefix

    def on_start(self) -> None:
        self._rate = self._asked_rate()
        if self._rate:
            gevent.sleep(random.random() / self._rate)  # users spawned together must not beat together
        self._due_s = self._planned_s = time.perf_counter()

    def on_stop(self) -> None:
        if self._rate:
            next_s = self._due_s if self._fresh else self._due_s + 1 / self._rate
            late_s = (self._health.stopped_s or time.perf_counter()) - next_s
            self._health.missed += int(late_s * self._rate) + 1 if late_s > 0 else 0
        self.client.redis.close()

    def wait_time(self) -> float:
        """Seconds until the next task is due; 0 where it is overdue. No slot is ever skipped."""
        rate, now_s = self._asked_rate(), time.perf_counter()
        self._fresh = True
        if rate != self._rate:  # a search goes to its next rate: a new schedule, without a backlog
            self._rate, self._excused_s = rate, 0.0
            self._due_s = now_s + (random.random() - 1) / rate if rate else now_s
        if not rate:
            return 0.0
        self._due_s += 1 / rate
        self._planned_s = max(self._due_s, now_s)
        return self._planned_s - now_s

    def measure(
        self, name: str, function: Callable[..., Any], *args: Any, commands: int | None = None, **kwargs: Any
    ) -> Any:
        """Call, fire one request event, return the result; OperationFailedError where it raised."""
        began_s = time.perf_counter()
        if self._fresh:
            self._begin_task(began_s)
        result, failure, killed = None, None, None
        try:
            result = function(*args, **kwargs)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # from a target; gevent would end the whole run
            failure = error
        except gevent.GreenletExit as error:
            if time.perf_counter() - began_s < KILLED_AFTER_S:
                raise
            failure, killed = KilledError(name), error
        self._fire(
            request_type="redis",
            name=name,
            response_time=(time.perf_counter() - began_s) * 1000,
            response_length=0,
            exception=failure,
            context=self._context if commands is None else {**self._context, "commands": commands},
        )
        if killed is not None:
            raise killed
        if failure is not None:
            raise self._failed(failure) from failure
        return result

    def _begin_task(self, began_s: float) -> None:
        """Work out how late the task begins; all its operations are as late as its first."""
        self._fresh = False
        if not self._rate or not self._paced:
            return
        owed_s = self._planned_s - self._due_s
        woken_s = max(0.0, began_s - self._planned_s)
        if owed_s <= 0:  # the user was idle, so the server did not delay it
            self._excused_s = owed_s = 0.0
            self._health.lags_us.append(int(woken_s * 1e6))
        self._excused_s = min(self._excused_s, owed_s)  # a delay that has been caught up with excuses nothing more
        self._context = {"late_us": int((owed_s - self._excused_s) * 1e6)}
        self._excused_s += woken_s
        self._health.begun += 1

    def _failed(self, failure: BaseException) -> OperationFailedError:
        error = OperationFailedError()
        if isinstance(failure, OSError) or any("Connection" in kind.__name__ for kind in type(failure).__mro__):
            error.definite = False
            gevent.sleep(RETRY_AFTER_S)
        return error

    def _asked_rate(self) -> float:
        if not self._paced:
            return 0.0
        return self._session.plan.rate_per_s * self.rate_share if self.rate_per_s is None else self.rate_per_s
