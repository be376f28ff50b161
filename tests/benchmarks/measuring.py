"""How things are measured here: beside their floor, in one run, in random order, and told as ratios.

`beside` is the one way in. A block is a few calls of one thing, each timed by itself; blocks of the thing
and of its floors follow each other in an order that a seed decides, so that what slows the machine down
for a while slows down all of them. A block's time is the lower quartile of its calls': the other half of
a busy core goes to somebody else. A ratio is that of a block to its floor's block beside it; the median of
all blocks is told, with a 95 % interval by bootstrap. Percentiles are of all calls.

One process is luck: where its memory lies, which hash seed it has. So the whole test is run again in further
processes, and the bootstrap draws processes first, then blocks of each: the interval holds what differs between runs.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any

SEED = 7
RESAMPLES = 1000
PROCESSES = 3
AGAIN = "PODRACE_BENCHMARK_AGAIN"
"""Set in a process that runs a test again: the file for its blocks."""
LEAST_FOR_P99_9 = 1000
LIBRARIES = ("redis", "hiredis", "orjson")


@dataclass
class Timed:
    """One thing to be timed. `call(i)` is timed; `prepare(n)`, before a block of n calls, is not."""

    call: Callable[[int], Any]
    prepare: Callable[[int], Any] = lambda calls: None
    calls_ns: list[int] = field(default_factory=list)
    blocks_ns: list[float] = field(default_factory=list)

    def block(self, calls: int) -> None:
        self.prepare(calls)
        call, times = self.call, []
        for number in range(calls):
            began = perf_counter_ns()
            call(number)
            times.append(perf_counter_ns() - began)
        self.calls_ns += times
        times.sort()
        self.blocks_ns.append(times[calls // 4])


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % interval, and the ratios of the single blocks by process."""

    ratio: float
    low: float
    high: float
    blocks: Sequence[Sequence[float]]


def ratio_of(*processes: Sequence[float], seed: int = SEED) -> Ratio:
    """The median of all blocks' ratios; the interval from processes, and blocks of each, drawn again and again."""
    rng = random.Random(seed)

    def drawn() -> float:
        chosen = rng.choices(processes, k=len(processes))
        return statistics.median(value for blocks in chosen for value in rng.choices(blocks, k=len(blocks)))

    medians = sorted(drawn() for _ in range(RESAMPLES))
    low, high = medians[round(RESAMPLES * 0.025)], medians[round(RESAMPLES * 0.975) - 1]
    return Ratio(statistics.median(value for blocks in processes for value in blocks), low, high, processes)


def percentile_us(times_ns: Sequence[int], percent: float) -> float:
    """Of the raw times, without interpolation."""
    ordered = sorted(times_ns)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] / 1000


def beside(
    benchmark: Any,
    ours: Timed | Callable[[int], Any],
    floors: Mapping[str, Timed | Callable[[int], Any]],
    *,
    target: str,
    operation: str,
    limit: float | None = None,
    rounds: int = 200,
    calls: int = 20,
    processes: int = PROCESSES,
    **more: Any,
) -> Mapping[str, Ratio]:
    """Time a thing beside its floors, in several processes, and write the ratio to the first into `extra_info`.

    pytest-benchmark's own figures are those of whole blocks. Where benchmarks are disabled everything
    runs once, and there is no ratio. Returns the ratios by floor.
    """
    timed = ours if isinstance(ours, Timed) else Timed(ours)
    others = {name: floor if isinstance(floor, Timed) else Timed(floor) for name, floor in floors.items()}
    if benchmark.disabled:
        for each in (*others.values(), timed):
            each.block(1)
        benchmark.pedantic(lambda: None)
        return {}
    rng = random.Random(SEED)
    after: list[Timed] = []

    def between() -> None:
        for floor in after:
            floor.block(calls)
        after.clear()
        order = [*others.values()]
        rng.shuffle(order)
        before = rng.randrange(len(order) + 1)
        after.extend(order[before:])
        for floor in order[:before]:
            floor.block(calls)

    with without_collector():
        for each in (timed, *others.values()):  # warm, and not counted
            each.block(calls)
            each.calls_ns.clear()
            each.blocks_ns.clear()
        benchmark.pedantic(timed.block, args=(calls,), setup=between, rounds=rounds, iterations=1)
        for floor in after:
            floor.block(calls)
    own = {
        name: [a / b for a, b in zip(timed.blocks_ns, floor.blocks_ns, strict=True)] for name, floor in others.items()
    }
    if AGAIN in os.environ:
        Path(os.environ[AGAIN]).write_text(json.dumps(own), encoding="utf-8")
    found = [own, *(again(benchmark.fullname) for _ in range(1, processes) if AGAIN not in os.environ)]
    ratios = {name: ratio_of(*(one[name] for one in found)) for name in own}
    tell(benchmark, target=target, operation=operation, floor=next(iter(floors)), found=ratios, limit=limit, **more)
    benchmark.extra_info |= {
        "calls_per_block": calls,
        **percentiles(timed.calls_ns),
        "floors": {
            name: {"ratio": round(ratios[name].ratio, 4), **percentiles(floor.calls_ns)}
            for name, floor in others.items()
        },
    }
    return ratios


def percentiles(times_ns: Sequence[int]) -> dict[str, float]:
    """p50, p99 and, of enough calls, p99.9."""
    wanted = {"p50_us": 50.0, "p99_us": 99.0} | ({"p99_9_us": 99.9} if len(times_ns) >= LEAST_FOR_P99_9 else {})
    return {name: round(percentile_us(times_ns, percent), 2) for name, percent in wanted.items()}


def again(test: str) -> dict[str, list[float]]:
    """The ratios of the blocks of a test, by floor, as another process measures them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "blocks.json")
        command = [sys.executable, "-m", "pytest", test, "--benchmark-enable", "--benchmark-only", "-q"]
        done = subprocess.run(command, env=os.environ | {AGAIN: str(path)}, capture_output=True, text=True)
        if not path.exists():
            raise RuntimeError(f"{test} could not be run again:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
        blocks: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
        return blocks


def tell(
    benchmark: Any,
    *,
    target: str,
    operation: str,
    floor: str,
    found: Mapping[str, Ratio],
    limit: float | None = None,
    **more: Any,
) -> None:
    """Write a ratio into `extra_info`, where `podrace bench-compare` and the reports look for it."""
    first = found[floor]
    benchmark.group = operation
    benchmark.extra_info |= {
        "target": target,
        "operation": operation,
        "floor": floor,
        "ratio": round(first.ratio, 4),
        "ratio_low": round(first.low, 4),
        "ratio_high": round(first.high, 4),
        "blocks": [[round(value, 4) for value in blocks] for blocks in first.blocks],
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        **({"limit": limit} if limit is not None else {}),
        **more,
    }


def check(benchmark: Any, figure: str, *, asked: str, got: str, holds: bool, must: bool = True) -> None:
    """Note what was asked and what came, for the table at the end; fail where it does not hold but `must`."""
    noted = benchmark.extra_info.setdefault("figures", [])
    verdict = "holds" if holds else "does not hold"
    claim = {"claim": f"{figure}: {asked}", "measured": got, "verdict": verdict}
    noted.append(claim | {"holds": holds, "must": must})
    assert holds or not must or AGAIN in os.environ, f"{figure}: asked {asked}, got {got}"


def check_ratio(benchmark: Any, floor: str, ratio: Ratio, limit: float, *, must: bool = True) -> None:
    """A limit on a ratio to one of the floors: past it is what is past it with its whole interval."""
    check(
        benchmark,
        f"{benchmark.extra_info['target']}: {benchmark.extra_info['operation']}",
        asked=f"<= {limit:g} x {floor}",
        got=f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
        holds=ratio.low <= limit,
        must=must,
    )


def busy_s(*pids: int) -> float:
    """For how long this process and others have had a core; by the clock on the wall where no /proc says it."""
    try:
        others = [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in pids]
    except OSError:
        return perf_counter_ns() / 1e9
    return time.process_time() + sum(map(int, others)) / 1e9


@contextmanager
def without_collector() -> Iterator[None]:
    """No cycle collection while times are taken."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def on_core(core: int | None, *pids: int) -> Iterator[None]:
    """This process (0) and others on one core; None: on all. What is not ours to move stays."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = {pid: os.sched_getaffinity(pid) for pid in (0, *pids)}
    try:
        for pid in before:
            os.sched_setaffinity(pid, range(os.cpu_count() or 1) if core is None else {core})
        yield
    finally:
        for pid, cores in before.items():
            os.sched_setaffinity(pid, cores)
