"""What the benchmarks share: the table of targets, a pinned server, pods, and the tables at the end.

`make bench` measures; in the plain test run every benchmark runs once, to see that it can. Client and
server stand on one core: they take turns, and waking another core costs more than a command does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for measuring, racing: also in the processes that they start

from benched import TARGETS
from measuring import on_core

from podrace.reference.memory import MemoryLedger
from podrace.reference.runtime import ThreadRuntime
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.files_api import InProcessFiles
from podrace.simulator.target import PodEnv, load_target

CLAIMS: list[dict[str, str]] = []
FIGURES: list[Mapping[str, Any]] = []


class InlineRuntime(ThreadRuntime):
    """Jobs run at once, in the caller; timers never fire: what is left is what the commands cost."""

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        if name != "timeout":
            function()


@pytest.fixture(scope="session")
def bench_server(tcp_server: Callable[..., Any]) -> Iterator[Server]:
    """A server on the unix socket and a TCP port."""
    with tcp_server() as server:
        yield Server(url=server.url, info=server.info(), prefix="mirix:", embedded=server)


@pytest.fixture
def pinned(bench_server: Server) -> Iterator[Server]:
    """The server, empty, and we on its core."""
    assert bench_server.embedded is not None
    client = connect(bench_server.url)
    client.flushall()
    with on_core(1 if _cores() > 1 else 0, bench_server.embedded.pid):
        yield bench_server
    client.close()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a pod of a target: a Gemini in memory, the ledger in SQLite."""
    made: list[Any] = []

    def make(target: str, server: Server, *, runtime: Any = None, gemini: Any = None, **client: Any) -> Any:
        ledger = MemoryLedger(tmp_path / f"ledger-{len(made)}.sqlite")
        redis_client = connect(client.pop("url", server.url), **client)
        env = PodEnv(
            name="A",
            redis=redis_client,
            prefix=server.prefix,
            services={"gemini": gemini or InProcessFiles(), "memory": ledger},
            runtime=runtime or InlineRuntime(),
            rng=random.Random(len(made)),
            options={"absorb_limit": 1, "compress": False},
        )
        made.extend((ledger, redis_client))
        return load_target(TARGETS[target].path)(env)

    yield make
    for each in made:
        each.close()


@pytest.fixture
def claim() -> Callable[[str, str, str], None]:
    """Notes a claim of the specification, what was measured, and the verdict."""

    def note(claimed: str, measured: str, verdict: str) -> None:
        holds = verdict.startswith("holds")
        CLAIMS.append({"claim": claimed, "measured": measured, "verdict": verdict, "holds": holds})

    return note


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps what every benchmark found, for the tables at the end."""
    yield
    found = getattr(request.node, "funcargs", {}).get("benchmark")
    if found is not None and found.extra_info:
        FIGURES.append(found.extra_info)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """The claims also stand in benchmark.json."""
    output_json["claims"] = CLAIMS
    output_json["command"] = "make bench"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The ratios, what was asked, and the claims."""
    write = terminalreporter.write_line
    ratios = [found for found in FIGURES if "ratio" in found]
    if ratios:
        terminalreporter.section("ratios to the floor in the same run")
        for found in ratios:
            limit = f"limit {found['limit']:g}" if "limit" in found else ""
            times = f"p50 {found['p50_us']:>8.1f} µs  p99 {found['p99_us']:>8.1f} µs" if "p50_us" in found else ""
            interval = f"{found['ratio']:>7.3f} [{found['ratio_low']:.3f}, {found['ratio_high']:.3f}]"
            write(f"{found['target']:<8} {found['operation']:<38} {interval:<26} {limit:<11} {times} {found['floor']}")
    asked = [figure for found in FIGURES for figure in found.get("figures", ())]
    if asked:
        terminalreporter.section("asked and got")
        for one in asked:
            reached = "yes" if one["holds"] else "NO"
            write(f"{reached:<4}{one['claim']:<96} got {one['measured']}")
    if CLAIMS:
        terminalreporter.section("the specification's claims")
        for one in CLAIMS:
            write(f"{one['claim']:<44} {one['verdict']:<14} {one['measured']}")
