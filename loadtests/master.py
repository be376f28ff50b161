"""The master, or the only process: it opens the server and the Files API, tells the workers in a Plan what to do,
merges what they measured, judges, and closes.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
from locust import runners

from podrace.loadtests import shapes, slo, verdict
from podrace.loadtests.arguments import check_form
from podrace.loadtests.fleet import DRAIN_S, UPLOAD_TIMEOUT_S
from podrace.loadtests.health import GeneratorHealth
from podrace.loadtests.latency import Latencies
from podrace.loadtests.servers import child, files_api_lost, run_id, serve, with_our_option
from podrace.loadtests.session import DONE, FAILED, RATE, STOP, VERSION, Worker
from podrace.loadtests.targets import STORE, UPLOAD, Plan, find_target
from podrace.simulator.app.runs import run_folder
from podrace.simulator.errors import PodraceError, UsageError
from podrace.simulator.servers.connection import redact

REPORT_EVERY_S = 1.0
STOP_TIMEOUT_S = UPLOAD_TIMEOUT_S + 2
"""Tasks may finish: a user killed in the middle of one would be a crash that no scenario asked for."""


class Master(Worker):
    """The process that judges: Locust's master, or the only one.

    `latencies`, `generator` and the rest are of the run that is on, or was last.
    """

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.has_workers = isinstance(self.runner, runners.MasterRunner)
        self._stack, self._server_stack = ExitStack(), ExitStack()
        self._run: ExitStack | None = None
        self._forget(None)

    def _forget(self, folder: Path | None) -> None:
        """Forget the run before; the next one's files go into `folder`."""
        self.folder, self.run_id = folder, ""
        self.latencies, self.generator = Latencies(folder), GeneratorHealth()
        self.cells: list[Any] = []
        self.reports: dict[str, dict[str, Any]] = {}
        self.failures: list[dict[str, Any]] = []
        self.done: set[str] = set()
        self.expected: set[str] = set()
        self._stale: set[str] = set()
        self.warm = self.aborted = False
        self.asked = 0
        self._began_s = self._ended_s = 0.0

    def start(self) -> None:
        """Check all that was asked for and open what is needed. Raises PodraceError before any load starts."""
        options, events = self.options, self.environment.events
        self.slo = slo.load_slo(options.slo)
        if options.run_time and self.slo.warm_up_s >= options.run_time:
            raise UsageError(f"--slo {options.slo}: its warm_up_s leaves nothing of {options.run_time} s")
        self._choose_users()
        atexit.register(self._at_exit)
        self._stack.push(self._server_stack)
        self.open_server(options.host or None)
        self.files_url = options.files_url
        if UPLOAD in self.scenarios:
            self.files_url = self.files_url or self._stack.enter_context(child("podrace.simulator.servers.files_api"))
            if reason := files_api_lost(self.files_url):
                raise UsageError(f"--files-url {self.files_url}: {reason}")
        with run_folder(Path(options.run_folder or "runs"), "load"):
            pass  # a folder that cannot be written is an error now, not when the users are about to start
        self._choose_shape()
        events.test_start.add_listener(lambda **_: self._on_test_start())
        events.test_stopping.add_listener(lambda **_: self._on_test_stopping())
        events.test_stop.add_listener(lambda **_: self._on_test_stop())
        events.quitting.add_listener(lambda **_: self._on_quitting())
        events.reset_stats.add_listener(lambda **_: self.reset())
        events.spawning_complete.add_listener(lambda **_: self.reset() if self.environment.reset_stats else None)
        if self.has_workers:
            events.worker_report.add_listener(self._on_worker_report)
            self.runner.register_message(DONE, lambda msg, **_: self._on_done(msg))
            self.runner.register_message(FAILED, lambda msg, **_: self.tell_failure(msg.data | {"id": msg.node_id}))
        else:
            events.request.add_listener(self.recorder.on_request)
            gevent.spawn(self._flush_forever)

    def open_server(self, url: str | None) -> None:
        """Use this server from now on. Raises UsageError if it cannot be used; then the one before stays."""
        stack = ExitStack()
        self.server = stack.enter_context(serve(url))
        self._server_stack.close()
        self._server_stack.push(stack)
        self.environment.host = redact(self.server.url)  # it stands on the page, and a URL may hold a password

    def check_form(self, form: Any) -> None:
        """Check the page's form before Locust takes it. Raises UsageError for a wrong field."""
        check_form(form, vars(self.options))
        if STORE in self.scenarios:
            self._check_store(form.get("target", self.options.target))
        host = form.get("host", self.environment.host).strip()
        if host != self.environment.host:
            if self._run is not None:
                raise UsageError("host: expected the one of this run while it goes on; stop it first")
            try:
                self.open_server(host or None)
            except UsageError as error:
                raise UsageError(with_our_option(error)) from None

    @property
    def search(self) -> shapes.RateSearch | None:
        shape = self.environment.shape_class
        return shape.search if isinstance(shape, shapes.SearchShape) else None

    def counts(self) -> dict[str, Any]:
        """What became of messages, by scenario, added up over the processes."""
        merged: dict[str, Counter[str]] = defaultdict(Counter)
        for report in self.reports.values():
            for scenario, counts in report.get("counts", {}).items():
                merged[scenario].update(counts)
        return dict(merged)

    def duration_s(self) -> float:
        return (self._ended_s or time.monotonic()) - self.latencies.began_s

    def asked_users(self) -> list[Any]:
        """The classes of users that this run was asked for."""
        asked = {name for name, count in self.runner.target_user_classes_count.items() if count}
        return [user for user in self.environment.user_classes if not asked or user.__name__ in asked]

    def asked_scenarios(self) -> set[str]:
        return {user.scenario for user in self.asked_users() if getattr(user, "scenario", "")}

    def breaches(self, *, running: bool = False) -> list[slo.Breach]:
        """The limits that are exceeded, of the operations of the users that were asked for."""
        limits = self.slo
        if not self.options.slo:
            limits = slo.only(limits, {name for user in self.asked_users() for name in getattr(user, "limited", ())})
        if self.search:
            limits = slo.only(limits, set())  # a search goes beyond on purpose
        explain = self.generator.explains
        return slo.breaches(limits, self.latencies, duration_s=self.duration_s(), explain=explain, running=running)

    def reset(self) -> None:
        """Forget what was measured so far: RESET on the page, --reset-stats, the end of the warm-up.

        What workers have measured and not yet reported comes with the next report of each, and is forgotten then.
        """
        if self.has_workers:
            self._stale = set(self.reports)
        elif self._run is not None:
            self._flush()
        self.latencies.reset()
        self.generator = GeneratorHealth()

    def tell_failure(self, failure: dict[str, Any]) -> None:
        """A part of the run has failed, so the whole run has: end it."""
        self.failures.append(failure)
        if self.has_workers:
            gevent.spawn(self._end_run)
        elif failure["traceback"] and self.folder:
            (self.folder / "traceback.txt").write_text(failure["traceback"], encoding="utf-8")

    def _check_store(self, target: str) -> None:
        if find_target(target).store is None:
            raise UsageError(f"--target {target}: has no store; name users other than StoreReader and StoreWriter")

    def _choose_users(self) -> None:
        """A target of the user's own has no store: users of a store are left out, or refused if they were named."""
        users = self.environment.user_classes
        try:
            if STORE in self.scenarios:
                self._check_store(self.options.target)
        except UsageError:
            if self.options.user_classes:
                raise
            self.environment.user_classes = [user for user in users if getattr(user, "scenario", "") != STORE]

    def _choose_shape(self) -> None:
        options = self.options
        shape: Any = None
        if options.shape == "search":
            shape = shapes.SearchShape(self)
        elif options.shape == "spike":
            shape = shapes.SpikeShape(options.num_users or shapes.USERS, options.run_time or 60)
        if shape is not None:
            shape.runner = self.runner
            self.environment.shape_class = shape

    def set_rate(self, rate_per_s: float) -> None:
        super().set_rate(rate_per_s)
        if self.has_workers:
            self.runner.send_message(RATE, rate_per_s)

    def window(self) -> shapes.Window:
        """What a step of a search has measured."""
        p99_us, generator = self.latencies.worst_p99_us(), self.generator
        excess_us = (p99_us or 0) - self.options.slo_p99_us
        reason = generator.explains(excess_us, 99.0) if excess_us > 0 else generator.busy()
        return shapes.Window(p99_us=p99_us, tasks_per_s=generator.begun_per_s, generator=reason)

    def _on_test_start(self) -> None:
        self.environment.process_exit_code = verdict.FAILED  # until the end says otherwise
        options = self.options
        self._run = ExitStack()
        path = Path(options.run_folder) if options.run_folder else None
        number = 1
        while path and (path / "result.json").exists():  # of an earlier run, started from the page
            number += 1
            path = Path(f"{options.run_folder}-{number}")
        self._forget(self._run.enter_context(run_folder(path, "load")))
        self.run_id = run_id(self.server)
        self.plan = Plan(
            token=os.urandom(8).hex(),
            target=options.target,
            redis_url=self.server.url,
            prefix=self.server.prefix,
            files_url=self.files_url,
            pods=options.pods,
            image_size_bytes=options.image_size * 1000,
            rate_per_s=options.rate,
            seed=options.seed,
        )
        options.podrace_plan = asdict(self.plan)  # Locust sends every argument that is not its own to the workers
        self._began_s = time.monotonic()
        if not self.has_workers:
            self._begin()
            self.latencies.began_s = time.monotonic()

    def _on_test_stopping(self) -> None:
        self._ended_s = time.monotonic()
        self.asked = 0 if self.runner.state == runners.STATE_SPAWNING else self.runner.target_user_count
        if self.has_workers:
            self._await_workers()
        else:
            self.stopping()

    def _on_test_stop(self) -> None:
        if self._run is None or self.folder is None or self.plan is None:
            return
        run, self._run = self._run, None
        try:
            with run:
                self.environment.process_exit_code = self._conclude()
        except PodraceError as error:  # the folder has the traceback; the exit code says already that it failed
            print(f"error: {error}", file=sys.stderr, flush=True)

    def _conclude(self) -> int:
        if not self.has_workers:
            self.drain()
            self._flush()
        found = verdict.Verdict(self)
        self.latencies.close()
        self.cells = found.cells
        found.tell()
        return found.exit_code

    def _on_quitting(self) -> None:
        """Runs before Locust settles the exit code, however the run ends."""
        if self._run is not None:
            self.runner.quit()
        try:
            self._stack.close()
        except PodraceError as error:
            print(f"error: {error}", file=sys.stderr)

    def _at_exit(self) -> None:
        """If a user's task has ended the whole process, as sys.exit() does under gevent, it must not look green."""
        ended_early = self._run is not None and not self.failures
        try:
            self._stack.close()
            if ended_early and self.fleet is not None:
                self.fleet.close()
        finally:  # another task may do the same just now, and gevent raises it here
            if ended_early:
                said = "error: the process was ended in the middle of a run: nothing was judged"
                print(said, file=sys.stderr, flush=True)
                os._exit(verdict.FAILED)

    def _end_run(self) -> None:
        if self.options.headless:
            self.runner.quit()
        else:
            self.runner.stop()

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        report = data.get("podrace")
        if self._run is None or self.plan is None:
            return
        if report is None or report.get("version") != VERSION:
            if client_id in {failure.get("id") for failure in self.failures}:
                return
            had = f"podrace {report.get('version', 'of old')}" if report else "no podrace"
            line = f"worker {client_id} runs {had}, this master podrace {VERSION}: install the same"
            self.tell_failure({"line": line, "code": verdict.FAILED, "id": client_id})
        elif report["token"] == self.plan.token:  # else it belongs to an earlier run
            self.expected.add(client_id)
            self._add(f"worker-{self.runner.get_worker_index(client_id)}", report)

    def _on_done(self, message: Any) -> None:
        self._on_worker_report(message.node_id, {"podrace": message.data})
        self.done.add(message.node_id)

    def _await_workers(self) -> None:
        """Before Locust stops the workers: let each finish, drain and report. A dead one is not waited for."""
        clients = self.runner.clients
        failed = {failure.get("id") for failure in self.failures}
        self.expected = (self.expected | {client.id for client in clients.all}) - failed
        for client in self.expected & set(clients):
            self.runner.send_message(STOP, client_id=client)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S + DRAIN_S + 5
        while time.monotonic() < deadline_s:
            alive = {client.id for client in clients.all if client.state != runners.STATE_MISSING}
            if not (self.expected - self.done) & alive:
                return
            gevent.sleep(0.05)

    def _flush_forever(self) -> None:
        while True:
            gevent.sleep(REPORT_EVERY_S)
            if self._run is not None:
                self._flush()

    def _flush(self) -> None:
        self._add("worker-0", self.report())

    def _add(self, worker: str, report: dict[str, Any]) -> None:
        stale = worker in self._stale
        self._stale.discard(worker)
        self.latencies.add(worker, report.pop("interval"), counted=not stale)
        health = report.pop("health")
        if not stale:
            self.generator.add(worker, health)
        self.reports[worker] = report
        if not self.warm and time.monotonic() - self._began_s >= self.slo.warm_up_s:
            self.warm = True
            if self.slo.warm_up_s:
                self.reset()
                self._stale.discard(worker)
        if self.slo.abort and self.warm and not self.aborted:
            self.aborted = any(not breach.excuse for breach in self.breaches(running=True))
            if self.aborted:
                gevent.spawn(self._end_run)
