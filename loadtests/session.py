"""One process's part of a run: what happens at Locust's events. See `master` for the process that judges.

A worker builds its fleet from the master's Plan. Locust's own stop gives workers half a second; here the master first
asks each to stop, to drain its queues and to hand in its counts. A worker that cannot do its part says so and ends.
"""

from __future__ import annotations

import inspect
import sys
import time
import traceback
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import gevent
from gevent.lock import RLock
from locust import log

from podrace.loadtests.fleet import Fleet
from podrace.loadtests.health import Health
from podrace.loadtests.latency import Recorder
from podrace.loadtests.targets import UPLOAD, LoadTarget, Plan, find_target
from podrace.simulator.errors import HarnessError, PodraceError

VERSION = version("podrace")
STOP, DONE, FAILED, RATE = "podrace_stop", "podrace_done", "podrace_failed", "podrace_rate"
FLUSH_S = 0.2
"""For a last message on its way out of this process."""


class Worker:
    """A process in which users run; a master in another process tells it what to do."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        self.runner = environment.runner
        self.recorder = Recorder()
        self.health = Health()
        self.fleet: Fleet | None = None
        self.plan: Plan | None = None
        self.users: int | None = None
        """How many users were running when they were told to stop."""
        self._stopping = RLock()

    @property
    def scenarios(self) -> set[str]:
        """The scenarios of the users that may run here; none if a locustfile has no users of pods."""
        return {user.scenario for user in self.environment.user_classes if getattr(user, "scenario", "")}

    def start(self) -> None:
        events = self.environment.events
        events.request.add_listener(self.recorder.on_request)
        events.report_to_master.add_listener(lambda client_id, data: data.update(podrace=self.report()))
        events.test_start.add_listener(lambda **_: self._begin())
        events.test_stop.add_listener(lambda **_: self.drain())
        events.quitting.add_listener(lambda **_: self._stop())
        self.runner.register_message(STOP, lambda **_: self._stop(), concurrent=True)
        self.runner.register_message(RATE, lambda msg, **_: self.set_rate(msg.data))

    def build(self, plan: Plan) -> None:
        """Make all that the users need, and collect garbage, before the load begins."""
        self.plan, self.fleet, self.users = plan, None, None
        if self.scenarios:
            target: LoadTarget = find_target(plan.target)
            self.fleet = Fleet(plan, target, worker=self.runner.client_id)
            if UPLOAD in self.scenarios:
                self.fleet.warm_up()
        # Locust's stop() calls this too. The first call takes half a second, in which no user could go on.
        inspect.stack()
        self.health.start()
        self.recorder.take()

    def report(self) -> dict[str, Any]:
        """What was measured since the last report, and the counts so far."""
        report: dict[str, Any] = {
            "token": self.plan.token if self.plan else "",
            "version": VERSION,
            "interval": self.recorder.take(),
            "health": self.health.take(),
            "users": self.runner.user_count if self.users is None else self.users,
            "broken": log.unhandled_greenlet_exception,
        }
        if self.fleet is not None:
            self.fleet.journal.settle()
            report |= {
                "counts": {name: dict(counts) for name, counts in self.fleet.journal.counts.items()},
                "sentences": self.fleet.journal.sentences,
                "doubts": self.fleet.inconclusive,
                "died": dict(self.fleet.runtime.died),
            }
        return report

    def set_rate(self, rate_per_s: float) -> None:
        """A search goes on with another rate."""
        if self.plan is not None:
            self.plan = replace(self.plan, rate_per_s=rate_per_s)

    def stopping(self) -> None:
        """The users are about to be told to stop."""
        if self.users is None:
            self.users = self.runner.user_count
            self.health.stopped_s = time.perf_counter()

    def drain(self) -> None:
        self.health.stop()
        if self.fleet is not None:
            self.fleet.drain()
            self.fleet.close()

    def tell_failure(self, failure: dict[str, Any]) -> None:
        """Tell the master, which ends the run."""
        self.runner.send_message(FAILED, failure)
        gevent.sleep(FLUSH_S)

    def _begin(self) -> None:
        """Begin a run. If this raised, Locust would go on, with users that have nothing to work with."""
        try:
            try:
                plan = Plan(**self.options.podrace_plan)
            except (TypeError, AttributeError):
                raise HarnessError(f"this worker runs podrace {VERSION}, its master another version") from None
            self.build(plan)
        except Exception as error:
            failure = describe(error)
            if not self.options.processes:  # else the master, on the same terminal, prints it once for all
                print(f"error: {failure['line']}", file=sys.stderr, flush=True)
            self.tell_failure(failure)
            raise SystemExit(failure["code"]) from None

    def _stop(self) -> None:
        """Stop the users, drain, report the rest. Ctrl-C reaches worker and master: the second call waits."""
        with self._stopping:
            self.stopping()
            self.runner.stop()
            self.environment.stop_timeout = 0.0  # else Locust sleeps for that time before it is ready again
            self.runner.send_message(DONE, self.report())


def describe(error: Exception) -> dict[str, Any]:
    """An error as one line, with its exit code, and with its traceback if it was not expected."""
    if isinstance(error, PodraceError):
        return {"line": str(error), "code": error.exit_code, "traceback": ""}
    line = f"{type(error).__name__}: {error}".replace("\n", " ")
    return {"line": line, "code": 4, "traceback": "".join(traceback.format_exception(error))}
