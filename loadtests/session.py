"""One process's part of a run: what Locust's events start, gather and end.

The master (or the only process) opens the server and the Files API, says in a Plan what is to be done, merges
what the workers measured, and judges. A worker builds its fleet from the Plan. Locust's own stop gives workers
half a second; here the master first asks each to stop, to drain its queues and to hand in its counts.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gevent
import psutil
from gevent.lock import RLock
from locust import runners

from podrace.loadtests import page, shapes, verdict
from podrace.loadtests.arguments import add_arguments, check_numbers
from podrace.loadtests.fleet import DRAIN_S, UPLOAD_TIMEOUT_S, Fleet, Plan
from podrace.loadtests.latency import Latencies, Recorder, merged_counts
from podrace.loadtests.servers import check_files_api, child, serve
from podrace.loadtests.slo import load_slo
from podrace.loadtests.targets import find_target
from podrace.simulator.app.runs import run_folder
from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.fleets import guarded
from podrace.simulator.servers.connection import connect, delete_prefix, redact

REPORT_EVERY_S = 1.0
STOP_TIMEOUT_S = UPLOAD_TIMEOUT_S + 2
"""A task is let finish: a user killed in the middle of one would be a crash that no scenario asked for."""
STOP, DONE = "podrace_stop", "podrace_done"

logger = logging.getLogger(__name__)


def install(events: Any) -> None:
    """Hook into Locust; called once, when the locustfile is loaded."""
    runners.WORKER_REPORT_INTERVAL = REPORT_EVERY_S  # 3 s would be half a step of a search
    os.register_at_fork(after_in_child=guarded.die_with_parent)  # the workers of --processes, which look for it long
    events.init_command_line_parser.add_listener(add_arguments)
    events.init.add_listener(_on_init)


def fleet_of(environment: Any) -> Fleet:
    fleet: Fleet = environment.podrace.fleet
    return fleet


def _on_init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    # one line a request otherwise, at load-test rates, with the address of each upload in it
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    is_worker = isinstance(runner, runners.WorkerRunner)
    session: Worker | Lead = Worker(environment) if is_worker else Lead(environment)
    environment.podrace = session
    environment.stop_timeout = max(environment.stop_timeout, STOP_TIMEOUT_S)
    # Locust prints its tables, in whole milliseconds, even where --loglevel asks for silence
    logging.getLogger("locust.stats_logger").setLevel(environment.parsed_options.loglevel.upper())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # else it is raised in whichever user runs just then, in the middle of an operation
        gevent.signal_handler(signal.SIGINT, gevent.get_hub().handle_system_error, KeyboardInterrupt, None)
    try:
        session.start()
    except PodraceError as error:
        print(f"error: {str(error).replace('--redis-url or PODRACE_REDIS_URL', '--host')}", file=sys.stderr)
        if environment.parsed_options.processes and not is_worker:
            _end_children()
        raise SystemExit(error.exit_code) from None
    if web_ui:
        page.add_tab(web_ui, session.rows)


def _end_children() -> None:
    """The workers of --processes, which would go on looking for this master for minutes."""
    for process in psutil.Process().children():
        process.kill()  # nothing has begun that could be ended in order


class Worker:
    """A process in which users run, at the word of a master elsewhere."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        self.runner = environment.runner
        self.recorder = Recorder()
        self.fleet: Fleet | None = None
        self._own_url: str | None = self.options.host
        self._stopping = RLock()

    def start(self) -> None:
        events = self.environment.events
        events.request.add_listener(self.recorder.on_request)
        events.report_to_master.add_listener(lambda client_id, data: data.update(podrace=self.report()))
        events.test_start.add_listener(lambda **_: self.build_fleet(Plan(**self.options.podrace_plan)))
        events.test_stop.add_listener(lambda **_: self.drain())
        events.quitting.add_listener(lambda **_: self._stop())
        self.runner.register_message(STOP, lambda **_: self._stop(), concurrent=True)

    def rows(self) -> list[dict[str, Any]]:
        return []

    def build_fleet(self, plan: Plan) -> None:
        if self._own_url:
            plan = replace(plan, redis_url=self._own_url)
        if self.fleet is not None:
            self.fleet.close()
        self.recorder.take()
        self.fleet = Fleet(plan, find_target(plan.target), worker=self.runner.client_id)
        if any(user.__name__ == "UploadLife" for user in self.environment.user_classes):
            try:
                self.fleet.warm_up()
            except HarnessError as error:
                logger.error("%s", error)  # every upload will fail, and be counted
        # Locust's stop() does this too, before it stops anybody: the first time costs half a second of everyone's
        inspect.stack()

    def report(self) -> dict[str, Any]:
        counts = self.fleet.counts() if self.fleet else {}
        doubts = self.fleet.inconclusive if self.fleet else ""
        died = dict(self.fleet.runtime.died) if self.fleet else {}
        return {"interval": self.recorder.take(), "counts": counts, "doubts": doubts, "died": died}

    def drain(self) -> None:
        if self.fleet is not None:
            self.fleet.drain()

    def _stop(self) -> None:
        """Stop the users, drain, hand in the rest. Ctrl-C reaches worker and master alike: the second call waits."""
        with self._stopping:
            self.runner.stop()
            self.environment.stop_timeout = 0.0  # Locust would sleep for so long before it is ready again
            self.runner.send_message(DONE, self.report())


class Lead(Worker):
    """The master, or the only process: opens, tells, merges, judges, closes."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.is_master = isinstance(self.runner, runners.MasterRunner)
        self.latencies = Latencies()
        self.search: shapes.RateSearch | None = None
        self._reports: dict[str, dict[str, Any]] = {}
        self._done: set[str] = set()
        self._expected: set[str] = set()
        self._stack = ExitStack()
        self._began_s = 0.0
        self._run: ExitStack | None = None

    def start(self) -> None:
        """Check all that was asked for and open what is needed. Raises PodraceError before any load starts."""
        options, events = self.options, self.environment.events
        self.slo = load_slo(Path(options.slo))
        check_numbers(vars(options))
        atexit.register(self._stack.close)
        self.server = self._stack.enter_context(serve(options.host or None))
        self.environment.host = redact(self.server.url)  # it stands on the page, and a URL may hold a password
        self.files_url = options.files_url or self._stack.enter_context(
            child("podrace.simulator.servers.files_api", "--latency-ms", str(options.files_latency_ms))
        )
        check_files_api(self.files_url)
        with run_folder(Path(options.run_folder or "runs"), "load"):
            pass  # one that cannot be written is told now, not when the users are about to start
        self._choose_shape()
        events.test_start.add_listener(lambda **_: self._on_test_start())
        events.test_stop.add_listener(lambda **_: self._on_test_stop())
        events.quitting.add_listener(lambda **_: self._on_quitting())
        if self.is_master:
            events.worker_report.add_listener(self._on_worker_report)
            events.test_stopping.add_listener(lambda **_: self._await_workers())
            self.runner.register_message(DONE, lambda msg, **_: self._on_done(msg))
        else:
            events.request.add_listener(self.recorder.on_request)
            gevent.spawn(self._flush_forever)

    def rows(self) -> list[dict[str, Any]]:
        return page.table_rows(self.latencies, self.counts())

    def counts(self) -> dict[str, Any]:
        own = [self.fleet.counts()] if self.fleet else []
        return dict(merged_counts([*own, *(report["counts"] for report in self._reports.values())]))

    def _choose_shape(self) -> None:
        options = self.options
        shape: Any = None
        users = options.num_users or 20
        if options.shape == "search":
            self.search = shapes.RateSearch(options.slo_p99_us, start=users, most=10_000)
            shape = shapes.SearchShape(self.search, lambda: self.latencies.take_window_p99_us())
        elif options.shape != "none":
            shape = shapes.UserShape(shapes.PLANS[options.shape](users, options.run_time or 60))
        if shape is not None:
            shape.runner = self.runner
            self.environment.shape_class = shape

    def _on_test_start(self) -> None:
        options = self.options
        self._run = ExitStack()
        path = Path(options.run_folder) if options.run_folder else None
        self.folder = self._run.enter_context(run_folder(path, "load"))
        log = self._run.enter_context((self.folder / "latency.hlog").open("w", encoding="utf-8"))
        self.latencies = Latencies(log)
        self._reports.clear()
        self._done.clear()
        self.plan = Plan(
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
        if not self.is_master:
            self.build_fleet(self.plan)
        self._began_s = time.monotonic()

    def _on_test_stop(self) -> None:
        if self._run is None:
            return
        duration_s = time.monotonic() - self._began_s
        if not self.is_master:
            self.drain()
            self._flush()
        run, self._run = self._run, None
        with run:
            reports = [*self._reports.values(), *([self.report()] if self.fleet else [])]
            missing = len(self._expected - self._done) if self.is_master else 0
            left, doubt = self._leftovers()
            doubts = [report["doubts"] for report in reports] + [doubt]
            doubts.append(f"workers that did not hand in their counts: {missing}" if missing else "")
            self.environment.process_exit_code = verdict.conclude(
                verdict.Outcome(
                    plan=self.plan,
                    folder=self.folder,
                    server=self.server.info,
                    latencies=self.latencies,
                    counts=self.counts(),
                    died=merged_counts({"died": report["died"]} for report in reports)["died"],
                    leaked=0 if missing else left,  # a worker that died has left what it was about to use
                    doubts=[text for text in dict.fromkeys(doubts) if text],
                    duration_s=duration_s,
                    slo=self.slo,
                    search=self.search,
                    exceptions=len(self.runner.exceptions),
                )
            )

    def _leftovers(self) -> tuple[int, str]:
        """How many of the pods' keys are left, and what keeps that from being known; then deletes them all."""
        try:
            with connect(self.server.url, max_connections=1) as client:
                store = f"{self.server.prefix}store:".encode()
                keys = client.scan_iter(match=f"{self.server.prefix}*", count=1000)
                left = sum(not key.startswith(store) for key in keys)
                delete_prefix(client, self.server.prefix)
            return left, ""
        except Exception as error:
            return 0, f"{type(error).__name__} at the end: nobody knows what the server still held"

    def _on_quitting(self) -> None:
        """Runs before Locust settles the exit code, however the run ends."""
        if self._run is not None:
            self.runner.quit()
        try:
            self._stack.close()
        except PodraceError as error:
            print(f"error: {error}", file=sys.stderr)

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        report = data.get("podrace")
        if report is not None and self._run is not None:
            self.latencies.add(report.pop("interval"))
            self._reports[client_id] = report

    def _on_done(self, message: Any) -> None:
        self._on_worker_report(message.node_id, {"podrace": message.data})
        self._done.add(message.node_id)

    def _await_workers(self) -> None:
        """Before Locust stops the workers: let each finish, drain and hand in. One that died is not waited for."""
        clients = self.runner.clients
        self._expected = {client.id for client in clients.all} | set(self._reports)
        for client in self._expected & set(clients):
            self.runner.send_message(STOP, client_id=client)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S + DRAIN_S + 5
        while time.monotonic() < deadline_s:
            alive = {client.id for client in clients.all if client.state != runners.STATE_MISSING}
            if not (self._expected - self._done) & alive:
                return
            gevent.sleep(0.05)

    def _flush_forever(self) -> None:
        while True:
            gevent.sleep(REPORT_EVERY_S)
            if self._run is not None:
                self._flush()

    def _flush(self) -> None:
        self.latencies.add(self.recorder.take(), pause=lambda: gevent.sleep(0))
