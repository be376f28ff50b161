"""How this package hooks into Locust: arguments when it parses, a session when it has a runner."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import gevent
import psutil
from locust import events, runners

from podrace.loadtests import page
from podrace.loadtests.arguments import add_arguments
from podrace.loadtests.master import REPORT_EVERY_S, STOP_TIMEOUT_S, Master
from podrace.loadtests.servers import with_our_option
from podrace.loadtests.session import Worker
from podrace.simulator.errors import PodraceError
from podrace.simulator.interrupts import Interrupted


def install() -> None:
    """Hook into Locust: once, when a locustfile asks for RedisUser."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for --target module:factory, as `python -m` has it
    runners.WORKER_REPORT_INTERVAL = REPORT_EVERY_S  # 3 s would be half a step of a search
    events.init_command_line_parser.add_listener(add_arguments)
    events.init.add_listener(_on_init)


def _on_init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    # one line a request otherwise, at load-test rates, with the address of each upload in it
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    is_worker = isinstance(runner, runners.WorkerRunner)
    session: Worker | Master = Worker(environment) if is_worker else Master(environment)
    environment.podrace = session
    environment.stop_timeout = max(environment.stop_timeout, STOP_TIMEOUT_S)
    # Locust prints its tables, in whole milliseconds, even where --loglevel asks for silence
    logging.getLogger("locust.stats_logger").setLevel(environment.parsed_options.loglevel.upper())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # else it is raised in whichever user runs just then, in the middle of an operation
        interrupted = Interrupted(signal.SIGINT)
        gevent.signal_handler(signal.SIGINT, gevent.get_hub().handle_system_error, Interrupted, interrupted)
    try:
        session.start()
    except PodraceError as error:
        print(f"error: {with_our_option(error)}", file=sys.stderr)
        if environment.parsed_options.processes and not is_worker:
            for process in psutil.Process().children():
                process.kill()  # nothing has begun that could be ended in order, and they would look for us long
        raise SystemExit(error.exit_code) from None
    if web_ui and isinstance(session, Master):
        page.add_tab(web_ui, session)
