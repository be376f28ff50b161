"""The same program gives the same result with real threads under the real clock, and as plain code in a pod."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Sequence
from pathlib import Path

import pytest

from podrace import Call, Scenario
from podrace.simulator.app.campaign import lab_for
from podrace.simulator.app.names import PARTS, named_target
from podrace.simulator.search.schedule import take_default
from podrace.simulator.servers.connection import Server

HERE = Path(__file__).parent
THREADS = tuple(runpy.run_path(str(HERE / "planted" / "plain_threads.py"))["PROGRAMS"])


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


def ran(server: Server, target: str, programs: Sequence[str], fleet: str) -> dict[str, str]:
    """What programs return as calls of two pods of plain code, made one after the other."""
    lines = {pod: [Call(f"{program} in {pod}", "run", (program,)) for program in programs] for pod in "AB"}
    with lab_for(fleet, server, named_target(target), Scenario("runs", lines), seed=1, parts=PARTS) as lab:
        play = lab.play(0)
        try:
            run = play.run(take_default)
        finally:
            lab.finish(play)
    assert not [call for call in run.calls if call.type != "ok"]
    told = {pod: {call.args[0]: str(call.value) for call in run.calls if call.pod == pod} for pod in "AB"}
    assert told["A"] == told["B"]
    return told["A"]


def in_general(text: str) -> str:
    """Without numbers that Python counts through one process, such as those in the names of threads."""
    return re.sub(r"(Thread|Dummy|ThreadPoolExecutor)-\d+", r"\1-N", text)


def really(module: str, program: str) -> str:
    """What a program returns as it is, with real threads under the real clock."""
    return repr(importlib.import_module(module).PROGRAMS[program]())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("program", THREADS)
def test_a_program_gives_the_same_in_a_pod_as_with_real_threads(run_server: Server, program: str) -> None:
    told = ran(run_server, "planted.plain_threads:pod", [program], "inline")
    assert in_general(told[program]) == in_general(really("planted.plain_threads", program))


def test_all_programs_give_the_same_in_one_process_as_in_processes(run_server: Server) -> None:
    told = [ran(run_server, "planted.plain_threads:pod", THREADS, fleet) for fleet in ("inline", "processes")]
    assert told[0] == told[1]
