"""How fast plain code is explored, beside the same service written against PodEnv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measuring import busy_s, check, ratio_of, tell

from podrace.simulator.app.names import named_scenario
from podrace.simulator.search.explorer import Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server

PAIRS = {
    "visibility": ("visibility:Mended", "visibility_mended", "visibility:SCENARIO", "threads", 0.5),
    "listener": ("listener:Mended", "listener_mended", "listener:SCENARIO", "threads", 0.5),
    "lock": ("lock:Mended", "lock_mended", "lock:SCENARIO", "threads", 0.5),
    "waiter": ("waiter:Mended", "waiter_mended", "waiter:SCENARIO", "asyncio", 0.4),
    "leader": ("leader:Mended", "leader_mended", "leader:SCENARIO", "asyncio", 0.4),
    "session": ("session:Mended", "session_mended", "session:TWO_PUT", "asyncio", 0.4),
}
"""By case: the target written against PodEnv, the plain one, the scenario, and the least ratio of their rates."""
FLOOR = "the same service written against PodEnv"


@pytest.fixture(autouse=True)
def _cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.mark.parametrize("case", PAIRS)
def test_plain_code_is_explored_nearly_as_fast(benchmark: Any, bench_server: Server, case: str) -> None:
    """Schedules a second of one core's time, ours and the server's, in turn."""
    written, plain, scenario, kind, least = PAIRS[case]
    bounds = Bounds(budget_s=0.05 if benchmark.disabled else 0.5, reduce=False)
    assert bench_server.embedded is not None
    pid = bench_server.embedded.pid
    found = named_scenario(f"cases.{scenario}")

    def rate(target: str) -> float:
        with InlineLab(bench_server, f"cases.{target}", found, seed=7) as lab:
            Explorer(
                lab.scenario, lab.play, lab.finish, Bounds(preemptions=0, faults=0)
            ).explore()  # what is loaded once
            began_s = busy_s(pid)
            run = Explorer(lab.scenario, lab.play, lab.finish, bounds, worst="").explore().run
            return run / (busy_s(pid) - began_s)

    rates = [(rate(f"plain_targets:{plain}"), rate(written)) for _ in range(1 if benchmark.disabled else 7)]
    benchmark.pedantic(lambda: None)
    if benchmark.disabled:
        return
    ratio = ratio_of([ours / theirs for ours, theirs in rates])
    tell(benchmark, target=case, operation=f"exploring plain code, {kind}", floor=FLOOR, found={FLOOR: ratio})
    got = f"{ratio.ratio:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}]"
    claim = f"{case}: plain code, {kind}, schedules a second"
    check(benchmark, claim, asked=f">= {least:g} x {FLOOR}", got=got, holds=ratio.high >= least)
