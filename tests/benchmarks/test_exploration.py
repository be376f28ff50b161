"""How fast schedules are explored: beside the commands that they send, and beside frontrun 0.7."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import TARGETS
from measuring import Ratio, busy_s, check, on_core, quiet_collector, ratio_of, tell

from podrace.reference import targets
from podrace.simulator.app.campaign import NamedTarget, explore_cell
from podrace.simulator.app.cli import PARTS
from podrace.simulator.scenarios.catalogue import SCENARIOS, Absorb, Scenario, find
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab, ProcessLab
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.target import load_target

SCHEDULES_PER_S = 1000
PEER_TIMES = 30
ROW_WITHIN_S = 5.0
MATRIX_WITHIN_S = 60.0
REDUCED_TO = 0.1
FULL_WITHIN_S = 60.0
ANY_NUMBER = 1000
ROWS = [scenario for scenario in SCENARIOS if scenario.row <= 20]
RACE = Scenario("race", 0, {"A": (Absorb("a"),), "B": (Absorb("b"),)}, "two pods GET, check and SET one key")
ALL = Bounds(preemptions=4, faults=2, budget_s=4.0, reduce=False)
"""Full enumeration, to the end of the budget."""


def explore(lab: Any, scenario: Scenario, bounds: Bounds) -> Exploration:
    """Without stopping at what is found."""
    return Explorer(scenario, lab.play, lab.finish, bounds, worst="").explore()


@pytest.fixture
def quick(benchmark: Any) -> bool:
    return bool(benchmark.disabled)


def test_rate(benchmark: Any, bench_server: Server, target: str, quick: bool) -> None:
    """Schedules a second of one core's time, ours and the server's, beside as many PINGs as there were commands."""
    scenario = find("timeout-overwrites-completion")
    bounds = Bounds(preemptions=4, faults=2, budget_s=0.05 if quick else 0.5, reduce=False)
    client, ratios, rates, by_wall = connect(bench_server.url), [], [], []
    assert bench_server.embedded is not None
    with InlineLab(bench_server, load_target(TARGETS[target].path), scenario, seed=7) as lab, quiet_collector():
        for _ in range(1 if quick else 10):
            before = client.info("stats")["total_commands_processed"]
            began_s = busy_s(bench_server.embedded.pid)
            found = explore(lab, scenario, bounds)
            rates.append(found.run / (busy_s(bench_server.embedded.pid) - began_s))
            commands = client.info("stats")["total_commands_processed"] - before
            began_s = time.perf_counter()
            for _ in range(commands):
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
    middle = sorted(rates)[len(rates) // 2]
    got = f"{middle:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) a second of a core; by the wall {max(by_wall):,.0f}"
    asked = f">= {SCHEDULES_PER_S:,} schedules/s on one core"
    check(benchmark, f"{target}: {scenario.name}", asked=asked, got=got, holds=middle >= SCHEDULES_PER_S)


def our_rates(server: Server, rounds: int) -> Iterator[float]:
    """Of the race, explored in full again and again; pods, keys and history made anew for every schedule."""
    with InlineLab(server, processes.RacingPod, RACE, seed=7) as lab, quiet_collector():
        for _ in range(rounds):
            began_s, run = time.perf_counter(), 0
            for _ in range(20):
                run += explore(lab, RACE, ALL).run
            yield run / (time.perf_counter() - began_s)


def our_process_rate(server: Server) -> float:
    """The same on pods in processes, which are made anew for every schedule."""
    with ProcessLab(server, "processes:RacingPod", RACE, seed=7, parts=PARTS) as lab:
        explore(lab, RACE, ALL)  # starts the fork server
        began_s = time.perf_counter()
        return explore(lab, RACE, ALL).run / (time.perf_counter() - began_s)


def peer_rates(server: Server, rounds: int, *, pinned: bool) -> Iterator[float]:
    """frontrun's, its start-up left out: from the first schedule's set-up to the last one's."""
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
        holds=times.ratio <= 1 / PEER_TIMES,
    )


def test_matrix(benchmark: Any, bench_server: Server, tmp_path: Path, quick: bool) -> None:
    """Rows 1 to 20 for local and shared: each of shared within 5 s, all within 60 s."""
    rows = ROWS[:2] if quick else ROWS

    def matrix() -> list[Any]:
        return [
            explore_cell(
                bench_server,
                NamedTarget(name, TARGETS[name].path),
                scenario,
                Bounds(),
                seed=7,
                folder=tmp_path,
            )
            for scenario in rows
            for name in ("local", "shared")
        ]

    began_s = time.perf_counter()
    cells = benchmark.pedantic(matrix, rounds=1, iterations=1)
    elapsed_s = time.perf_counter() - began_s
    assert [(cell.scenario, cell.target) for cell in cells if cell.verdict != cell.expected] == []
    slowest = max((cell for cell in cells if cell.target == "shared"), key=lambda cell: cell.elapsed_s)
    if quick:
        return
    benchmark.extra_info["elapsed_s"] = {f"{cell.target} {cell.scenario}": cell.elapsed_s for cell in cells}
    asked, got = f"<= {ROW_WITHIN_S:g} s", f"{slowest.elapsed_s:.2f} s ({slowest.scenario})"
    within = slowest.elapsed_s <= ROW_WITHIN_S
    check(benchmark, "shared: the slowest of rows 1 to 20", asked=asked, got=got, holds=within)
    check(
        benchmark,
        "rows 1 to 20 x 2 targets",
        asked=f"<= {MATRIX_WITHIN_S:g} s",
        got=f"{elapsed_s:.1f} s",
        holds=elapsed_s <= MATRIX_WITHIN_S,
    )


def test_reduction(benchmark: Any, bench_server: Server, quick: bool) -> None:
    """Schedules with the reduction and without it, one fault, where both finish.

    Full enumeration knows no bound on preemptions. Within the default one most orders are out of reach
    already, and less is left to leave out: that is told beside it.
    """
    benchmark.pedantic(lambda: None)
    for figure, preemptions, must in (("any order", ANY_NUMBER, True), ("at most 2 preemptions", 2, False)):
        table = reductions(bench_server, ROWS[:1] if quick else ROWS, preemptions, 0.5 if quick else FULL_WITHIN_S)
        assert table
        if quick:
            continue
        runs, needed = (sum(column) for column in zip(*table.values(), strict=True))
        within = sum(run <= REDUCED_TO * of for run, of in table.values())
        benchmark.extra_info[f"schedules, {figure}"] = table
        check(
            benchmark,
            f"reduction, where both finish, {figure}",
            asked="<= 0.1 of the schedules",
            got=f"{runs / needed:.3f} in all ({runs:,} of {needed:,}); {within} of {len(table)} cells each",
            holds=runs <= REDUCED_TO * needed,
            must=must,
        )


def reductions(
    server: Server, rows: Sequence[Scenario], preemptions: int, within_s: float
) -> dict[str, tuple[int, int]]:
    """Schedules that were run, reduced and in full, by cell; those cells alone where both finished in time."""
    table = {}
    for scenario in rows:
        with InlineLab(server, targets.shared, scenario, seed=7) as lab, quiet_collector():
            reduced = explore(lab, scenario, Bounds(preemptions=preemptions, budget_s=within_s))
            if not reduced.complete:
                continue
            full = explore(lab, scenario, Bounds(preemptions=preemptions, budget_s=within_s, reduce=False))
            if full.complete:
                table[scenario.name] = reduced.run, full.run
                assert reduced.outcomes == full.outcomes
    return table
