"""A program gives the same result run directly, with the real clock, and as plain code in a pod."""

from __future__ import annotations

import asyncio
import importlib
import re
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from podrace import Call, CancelCall, Kill, Scenario
from podrace.simulator.app.campaign import explore_cell, lab_for
from podrace.simulator.app.names import named_target
from podrace.simulator.scenarios.faults import Fault
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.schedule import take_default
from podrace.simulator.servers.connection import Server, connect

HERE = Path(__file__).parent
FREE = ("plain_threads", "plain_small", "plain_asyncio")
"""Programs that need no server."""


def named_in(*modules: str) -> list[tuple[str, str]]:
    return [(one, name) for one in modules for name in runpy.run_path(str(HERE / f"planted/{one}.py"))["PROGRAMS"]]


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def url(run_server: Server) -> Iterator[str]:
    """The address of a server that is emptied before and after."""
    with connect(run_server.url) as client:
        client.flushall()
        yield run_server.url
        client.flushall()


def ran(
    server: Server,
    module: str,
    calls: Sequence[tuple[Any, ...]],
    fleet: str,
    *,
    method: str = "run",
    together: bool = False,
) -> list[str]:
    """The results of programs as calls of two pods of plain code; B begins after A, or together with it."""
    names = [f"{number}" for number in range(len(calls))]
    lines = {"A": [Call(f"A{name}", method, call) for name, call in zip(names, calls, strict=True)]}
    lines["B"] = [
        Call(f"B{name}", method, call, after=() if together else (f"A{names[-1]}",))
        for name, call in zip(names, calls, strict=True)
    ]
    with lab_for(fleet, server, named_target(f"planted.{module}:pod"), Scenario("runs", lines), seed=1) as lab:
        play = lab.play(0)
        try:
            run = play.run(take_default)
        finally:
            lab.finish(play)
    assert not [call for call in run.calls if call.type != "ok"]
    return [str(call.value) for call in sorted(run.calls, key=lambda call: call.actor)]


def really(module: str, program: str, *args: str) -> str:
    """The result of the program when it is run directly."""
    result = importlib.import_module(f"planted.{module}").PROGRAMS[program](*args)
    return repr(asyncio.run(result) if asyncio.iscoroutine(result) else result)


def in_general(text: str) -> str:
    """The text without numbers that Python counts up in a process, as in the names of threads."""
    return re.sub(r"(Thread|Dummy|ThreadPoolExecutor)-\d+", r"\1-N", text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("module", "program"), named_in(*FREE))
def test_a_program_gives_the_same_in_a_pod(run_server: Server, module: str, program: str) -> None:
    real = really(module, program)
    first, second = ran(run_server, module, [(program,)], "inline")
    assert in_general(first) == in_general(real)
    assert first == second  # the pods share no counters


@pytest.mark.parametrize(("module", "program"), named_in("plain_redis", "plain_aredis"))
def test_a_program_with_clients_of_its_own_gives_the_same_in_a_pod(
    run_server: Server, url: str, module: str, program: str
) -> None:
    real = really(module, program, url)
    connect(url).flushall()
    assert ran(run_server, module, [(program, url)], "inline")[0] == real


@pytest.mark.parametrize("module", FREE)
def test_programs_give_the_same_in_one_process_as_in_processes(run_server: Server, module: str) -> None:
    calls = [(program,) for _, program in named_in(module)]
    assert ran(run_server, module, calls, "inline") == ran(run_server, module, calls, "processes")


def test_a_plain_function_may_run_a_loop_of_its_own(run_server: Server) -> None:
    programs = [name for _, name in named_in("plain_asyncio")]
    calls = [(program,) for program in [*programs, "run_within"]]
    told = ran(run_server, "plain_asyncio", calls, "inline", method="run_by_itself")
    assert told[: len(programs)] == ran(run_server, "plain_asyncio", calls[:-1], "inline")[: len(programs)]
    assert told[len(programs)] == repr(importlib.import_module("planted.plain_asyncio").run_within())


@pytest.mark.parametrize("module", FREE)
def test_pods_at_the_same_time_do_not_disturb_each_other(run_server: Server, module: str) -> None:
    calls = [(program,) for _, program in named_in(module)]
    alone = ran(run_server, module, calls, "inline")
    assert ran(run_server, module, calls, "inline", together=True) == alone


@pytest.mark.parametrize(
    ("program", "fault"), [("published", Kill()), ("published", CancelCall()), ("stops_listening", Kill())]
)
def test_listeners_hear_the_same_each_time_under_any_fault(
    run_server: Server, tmp_path: Path, program: str, fault: Fault
) -> None:
    """Some schedules are run again: what a listener gets must not depend on the speed of the server."""
    lines = {pod: [Call(pod, "run", (program, run_server.url))] for pod in "AB"}
    scenario = Scenario("listens", lines, faults=[fault], keeps=["*"])
    target, bounds = named_target("planted.plain_aredis:pod"), Bounds(preemptions=0)
    cell = explore_cell(run_server, target, scenario, bounds, seed=7, folder=tmp_path, on_processes=False)
    assert (cell.verdict, cell.schedules.get("complete")) == ("holds", True), cell.note
