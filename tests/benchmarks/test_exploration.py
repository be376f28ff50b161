"""How fast schedules are explored: beside the commands that they send, and beside frontrun 0.7."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
from benched import TARGETS
from measuring import Ratio, busy_s, check, on_core, ratio_of, tell

from podrace.simulator.app.campaign import explore_cell
from podrace.simulator.app.helping import Job
from podrace.simulator.app.names import PARTS, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.app.workers import explore_here, team
from podrace.simulator.scenarios.catalogue import SCENARIOS, find
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.search import record
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds, until_it_leaves
from podrace.simulator.search.lab import InlineLab, ProcessLab
from podrace.simulator.servers.connection import Server, connect

PINGS = 3.0
"""Exploring takes at most so many times as long as the same number of PINGs by redis-py."""
PEER_TIMES = 30
TWO_CORES = 1.7
ROUNDS = 3
"""So often what takes many seconds is repeated, for an interval."""
RACE = Scenario("race", {"A": (Call("a", "absorb", ("",)),), "B": (Call("b", "absorb", ("",)),)})
"""Two pods GET, check and SET one key."""
ALL = Bounds(preemptions=4, faults=2, budget_s=4.0, reduce=False)
"""Full enumeration, to the end of the budget."""


def explore(lab: Any, bounds: Bounds) -> Exploration:
    """The search goes on after a violation."""
    return Explorer(lab.scenario, lab.play, lab.finish, bounds, worst="").explore()


@pytest.fixture
def quick(benchmark: Any) -> bool:
    return bool(benchmark.disabled)


def commands_for(monkeypatch: pytest.MonkeyPatch, client: Any, work: Callable[[], Any]) -> int:
    """How many commands the server gets for work in which no run is told what an earlier one has found out."""
    with monkeypatch.context() as patch:
        patch.setattr(record, "until_it_leaves", lambda branch: until_it_leaves(branch)._replace(known=()))
        before = int(client.info("stats")["total_commands_processed"])
        work()
        return int(client.info("stats")["total_commands_processed"]) - before


def test_rate(benchmark: Any, bench_server: Server, monkeypatch: pytest.MonkeyPatch, target: str, quick: bool) -> None:
    """Schedules a second of one core's time, ours and the server's, beside as many PINGs as they have commands."""
    scenario = find("timeout-overwrites-completion")
    bounds = Bounds(preemptions=4, faults=2, budget_s=0.05 if quick else 0.5, reduce=False)
    client, ratios, rates, by_wall = connect(bench_server.url), [], [], []
    assert bench_server.embedded is not None
    with InlineLab(bench_server, TARGETS[target].path, scenario, seed=7) as lab:
        untold: list[int] = []
        commands = commands_for(monkeypatch, client, lambda: untold.append(explore(lab, bounds).run))
        for _ in range(1 if quick else 10):
            began_s = busy_s(bench_server.embedded.pid)
            found = explore(lab, bounds)
            rates.append(found.run / (busy_s(bench_server.embedded.pid) - began_s))
            began_s = time.perf_counter()
            for _ in range(round(commands * found.run / untold[0])):
                client.ping()
            ratios.append(found.elapsed_s / (time.perf_counter() - began_s))
            by_wall.append(found.run / found.elapsed_s)
    client.close()
    benchmark.pedantic(lambda: None)
    if quick:
        return
    floor = "redis-py, as many PINGs as commands"
    tell(
        benchmark,
        target=target,
        operation="exploring, full enumeration",
        floor=floor,
        found={floor: ratio_of(ratios)},
        schedules_per_s=round(sorted(rates)[len(rates) // 2]),
        schedules_per_s_by_wall=[round(rate) for rate in by_wall],
    )
    found = ratio_of(ratios)
    got = f"{found.ratio:.2f} x [{found.low:.2f}, {found.high:.2f}]; {max(by_wall):,.0f} schedules a second"
    asked = f"<= {PINGS:g} x as many PINGs as commands"
    check(benchmark, f"{target}: {scenario.name}, full enumeration", asked=asked, got=got, holds=found.low <= PINGS)


def our_rates(server: Server, rounds: int) -> Iterator[float]:
    """Of the race, explored in full again and again; pods, keys and history made anew for every schedule."""
    with InlineLab(server, "racing:RacingPod", RACE, seed=7) as lab:
        for _ in range(rounds):
            began_s, run = time.perf_counter(), 0
            for _ in range(20):
                run += explore(lab, ALL).run
            yield run / (time.perf_counter() - began_s)


def our_process_rate(server: Server) -> float:
    """The same on pods in processes, which are made anew for every schedule."""
    with ProcessLab(server, "racing:RacingPod", RACE, seed=7, parts=PARTS) as lab:
        explore(lab, ALL)  # starts the fork server
        began_s = time.perf_counter()
        return explore(lab, ALL).run / (time.perf_counter() - began_s)


def peer_rates(server: Server, rounds: int, *, pinned: bool) -> Iterator[float]:
    """frontrun's rate without its start-up: from the set-up of its first schedule to that of its last."""
    frontrun = pytest.importorskip("frontrun", reason="the extra `peers` is not installed")
    assert server.embedded is not None
    path, client = str(server.embedded.socket_path), connect(server.url)
    for _ in range(rounds):
        began_s: list[float] = []

        def setup(began_s: list[float] = began_s) -> str:
            began_s.append(time.perf_counter())
            client.delete(processes.RACE_KEY)
            return path

        with on_core(0 if pinned else None, server.embedded.pid):
            found = frontrun.explore(
                setup=setup,
                workers=processes.race,
                count=2,
                invariant=lambda _: True,
                execution="process",
                reuse_workers=True,
                stop_on_first=False,
                preemption_bound=None,
            )
        assert found.num_explored == len(began_s) > 1, found.explanation
        client.delete(processes.RACE_KEY)  # else our next exploration would find it there
        yield (len(began_s) - 1) / (began_s[-1] - began_s[0])
    client.close()


def test_beside_frontrun(benchmark: Any, bench_server: Server, quick: bool) -> None:
    """The same race, two processes there: GET, check, SET on one key. frontrun on one core or two, as it likes."""
    pytest.importorskip("frontrun", reason="the extra `peers` is not installed: pip install '.[peers]'")
    benchmark.pedantic(lambda: None)
    if quick:
        assert next(our_rates(bench_server, 1)) > 0
        return
    ours, peer, peer_pinned = [], [], []
    for _ in range(5):
        ours += our_rates(bench_server, 1)
        peer += peer_rates(bench_server, 1, pinned=False)
        peer_pinned += peer_rates(bench_server, 1, pinned=True)
    best = max((peer, peer_pinned), key=lambda rates: sorted(rates)[len(rates) // 2])
    found: Mapping[str, Ratio] = {"frontrun 0.7": ratio_of([b / a for a, b in zip(ours, best, strict=True)])}
    on_processes = our_process_rate(bench_server)
    tell(
        benchmark,
        target="inline",
        operation="race, time of a schedule",
        floor="frontrun 0.7",
        found=found,
        limit=round(1 / PEER_TIMES, 4),
        schedules_per_s={"ours": ours, "frontrun": peer, "frontrun, one core": peer_pinned, "processes": on_processes},
    )
    times = found["frontrun 0.7"]
    check(
        benchmark,
        "the same race as frontrun 0.7",
        asked=f">= {PEER_TIMES} x its schedules/s",
        got=f"{1 / times.ratio:.0f} x [{1 / times.high:.0f}, {1 / times.low:.0f}]: {sorted(ours)[2]:,.0f} beside "
        f"{sorted(best)[2]:.0f}; on processes {on_processes:.0f}",
        holds=times.low <= 1 / PEER_TIMES,
    )


def test_matrix(
    benchmark: Any, bench_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: bool
) -> None:
    """Every row for local and shared, runs on processes left out, beside the PINGs that take as many round trips."""
    rows = SCENARIOS[:2] if quick else SCENARIOS
    client = connect(bench_server.url)

    def matrix() -> list[Any]:
        return [
            explore_cell(
                bench_server,
                named_target(name),
                scenario,
                Bounds(),
                seed=7,
                folder=tmp_path,
                on_processes=False,
            )
            for scenario in rows
            for name in ("local", "shared")
        ]

    cells, ratios, elapsed_s = [], [], 0.0
    benchmark.pedantic(lambda: None)
    commands = commands_for(monkeypatch, client, matrix)
    for _ in range(1 if quick else ROUNDS):
        began_s = time.perf_counter()
        cells = matrix()
        elapsed_s = time.perf_counter() - began_s
        assert [(cell.scenario, cell.target) for cell in cells if not cell.is_expected] == []
        began_s = time.perf_counter()
        for _ in range(commands):
            client.ping()
        ratios.append(elapsed_s / (time.perf_counter() - began_s))
    client.close()
    if quick:
        return
    found = ratio_of(ratios)
    benchmark.extra_info["elapsed_s"] = {f"{cell.target} {cell.scenario}": cell.elapsed_s for cell in cells}
    schedules = sum(cell.schedules["run"] for cell in cells)
    got = f"{found.ratio:.2f} x [{found.low:.2f}, {found.high:.2f}], {schedules:,} schedules, {elapsed_s:.1f} s"
    asked = f"<= {PINGS:g} x as many PINGs as commands"
    check(benchmark, "the matrix", asked=asked, got=got, holds=found.low <= PINGS)


def test_a_cell_on_two_cores(benchmark: Any, bench_server: Server, tmp_path: Path, quick: bool) -> None:
    """The schedules of one long cell, split over two processes, beside the same cell in one; starts included."""
    job = Job("durable", "foreign-pod" if quick else "lock-expires-mid-send", Bounds(), seed=7)

    def explored(workers: int) -> Cell:
        with team(workers - 1) as members:
            (cell,) = explore_here([job], bench_server, tmp_path, lambda job, schedules: None, members)
        return cell

    benchmark.pedantic(lambda: None)
    pairs = []
    for _ in range(1 if quick else ROUNDS):
        alone, split = explored(1), explored(2)
        assert replace(split, elapsed_s=0) == replace(alone, elapsed_s=0)
        pairs.append((alone, split))
    if quick:
        return
    found = ratio_of([alone.elapsed_s / split.elapsed_s for alone, split in pairs])
    benchmark.extra_info["elapsed_s"] = [{"one": alone.elapsed_s, "two": split.elapsed_s} for alone, split in pairs]
    check(
        benchmark,
        f"one cell on two cores: {job.target}, {job.scenario}",
        asked=f">= {TWO_CORES:g} x as fast as on one",
        got=f"{found.ratio:.2f} x [{found.low:.2f}, {found.high:.2f}], {alone.schedules['run']:,} schedules, "
        f"{alone.elapsed_s:.1f} s on one",
        holds=found.high >= TWO_CORES,
    )
