"""How long things take to start: eight more pods, the demo, the help."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import multiprocess
import pytest
from measuring import Timed, beside, check_ratio

from podrace.simulator.fleets.processes import Fleet, PodSpec
from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.files_api import FilesApi

PODS = 8
PODS_LIMIT = 3.5
REPRODUCE_LIMIT = 5.0
HELP_LIMIT = 7.0
PODRACE = "import sys; from podrace.simulator.app.cli import main; main(sys.argv[1:])"


def test_pods_start(benchmark: Any, bench_server: Server, tmp_path: Path) -> None:
    """Eight pods after the first, beside eight processes of the same fork server that only report that they run."""
    rounds = 1 if benchmark.disabled else 15
    with FilesApi() as files:
        spec = PodSpec(
            name="A",
            target="podrace.reference.targets:shared",
            redis_url=bench_server.url,
            prefix=bench_server.prefix,
            services={
                "gemini": "podrace.reference.gemini:GeminiFiles",
                "memory": "podrace.reference.memory:MemoryLedger",
            },
            settings={
                "gemini": {"api_key": "local", "base_url": files.url},
                "memory": {"path": str(tmp_path / "ledger.sqlite")},
            },
            options={"absorb_limit": 1},
        )
        with Fleet([spec]) as fleet:
            names: list[str] = []

            def start(_: int) -> None:
                names[:] = [f"P{len(fleet.names)}-{number}" for number in range(PODS)]
                for name in names:
                    fleet.add(replace(spec, name=name))
                for name in names:
                    fleet.await_ready(name)

            def clear(_: int) -> None:
                for name in names:
                    fleet.kill(name)
                names.clear()

            pods = Timed(start, clear)
            started: list[Any] = []
            bare = Timed(lambda _: bare_processes(started), lambda _: end_processes(started))
            floors = {"processes of a fork server": bare}
            found = beside(
                benchmark,
                pods,
                floors,
                target="fleet",
                operation=f"{PODS} pods start",
                limit=PODS_LIMIT,
                rounds=rounds,
                calls=1,
            )
            end_processes(started)
    for floor, ratio in found.items():
        check_ratio(benchmark, floor, ratio, PODS_LIMIT)


def bare_processes(started: list[Any]) -> None:
    forkserver = multiprocess.get_context("forkserver")
    pipes = [forkserver.Pipe() for _ in range(PODS)]
    main = sys.modules["__main__"]
    spec, file = main.__spec__, getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__  # as the fleet does: no child needs pytest
    try:
        processes = [forkserver.Process(target=methodcaller("send", "ready"), args=(theirs,)) for _, theirs in pipes]
        for process in processes:
            process.start()
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file
    for ours, theirs in pipes:
        theirs.close()
        ours.recv()
    started.extend(zip(processes, (ours for ours, _ in pipes), strict=True))


def end_processes(started: list[Any]) -> None:
    for process, ours in started:
        process.join()
        process.close()
        ours.close()
    started.clear()


def run(*words: str, cwd: Path | None = None) -> Callable[[int], None]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("COVERAGE_PROCESS_START", None)

    def call(_: int) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=cwd, env=environment)

    return call


def test_reproduce(benchmark: Any, tmp_path: Path) -> None:
    """The demo, beside what importing google-genai alone takes."""
    if benchmark.disabled:
        pytest.skip("that the demo runs, its own tests show")
    floors = {'python -c "from google import genai"': run("-c", "from google import genai")}
    found = beside(
        benchmark,
        run("-c", PODRACE, "reproduce", cwd=tmp_path),
        floors,
        target="podrace",
        operation="reproduce",
        limit=REPRODUCE_LIMIT,
        rounds=11,
        calls=1,
    )
    for floor, ratio in found.items():
        check_ratio(benchmark, floor, ratio, REPRODUCE_LIMIT)


def test_help(benchmark: Any) -> None:
    """`podrace --help` beside a Python that does nothing."""
    found = beside(
        benchmark,
        run("-c", PODRACE, "--help"),
        {"python -c pass": run("-c", "pass")},
        target="podrace",
        operation="--help",
        limit=HELP_LIMIT,
        rounds=21,
        calls=1,
    )
    for floor, ratio in found.items():
        check_ratio(benchmark, floor, ratio, HELP_LIMIT)
