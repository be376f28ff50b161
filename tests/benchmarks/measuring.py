"""How things are measured here: beside their floor, in one run, in random order, and told as ratios.

`beside` is the one way in. A block is a few calls of one thing, each timed by itself; blocks of the thing
and of its floors follow each other in an order that a seed decides, so that what slows the machine down
for a while slows down all of them. A block's time is the lower quartile of its calls': the other half of
a busy core goes to somebody else. A ratio is that of a block to its floor's block beside it; the median of
all blocks is told, with a 95 % interval by bootstrap over the blocks. Percentiles are of all calls.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

SEED = 7
RESAMPLES = 1000


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
    """A ratio with its 95 % interval, and the ratios of the single blocks."""

    ratio: float
    low: float
    high: float
    blocks: Sequence[float]


def ratio_of(blocks: Sequence[float], *, seed: int = SEED) -> Ratio:
    """The median of the blocks' ratios; the interval from the medians of blocks drawn again and again."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES))
    low, high = medians[round(RESAMPLES * 0.025)], medians[round(RESAMPLES * 0.975) - 1]
    return Ratio(statistics.median(blocks), low, high, blocks)


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
    **more: Any,
) -> Mapping[str, Ratio]:
    """Time a thing beside its floors and write the ratio to the first of them into `extra_info`.

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

    with quiet_collector():
        for each in (timed, *others.values()):  # warm, and not counted
            each.block(calls)
            each.calls_ns.clear()
            each.blocks_ns.clear()
        benchmark.pedantic(timed.block, args=(calls,), setup=between, rounds=rounds, iterations=1)
        for floor in after:
            floor.block(calls)
    ratios = {
        name: ratio_of([a / b for a, b in zip(timed.blocks_ns, floor.blocks_ns, strict=True)])
        for name, floor in others.items()
    }
    tell(benchmark, target=target, operation=operation, floor=next(iter(floors)), found=ratios, limit=limit, **more)
    benchmark.extra_info |= {
        "calls_per_block": calls,
        "p50_us": round(percentile_us(timed.calls_ns, 50), 2),
        "p99_us": round(percentile_us(timed.calls_ns, 99), 2),
        "floors": {
            name: {
                "ratio": round(ratios[name].ratio, 4),
                "p50_us": round(percentile_us(floor.calls_ns, 50), 2),
                "p99_us": round(percentile_us(floor.calls_ns, 99), 2),
            }
            for name, floor in others.items()
        },
    }
    return ratios


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
        "blocks": [round(value, 4) for value in first.blocks],
        **({"limit": limit} if limit is not None else {}),
        **more,
    }


def check(benchmark: Any, figure: str, *, asked: str, got: str, holds: bool, must: bool = True) -> None:
    """Note what was asked and what came, for the table at the end; fail where it does not hold but `must`."""
    noted = benchmark.extra_info.setdefault("figures", [])
    noted.append({"figure": figure, "asked": asked, "got": got, "holds": holds, "must": must})
    assert holds or not must, f"{figure}: asked {asked}, got {got}"


def check_ratio(benchmark: Any, floor: str, ratio: Ratio, limit: float, *, must: bool = True) -> None:
    """A limit on a ratio to one of the floors."""
    check(
        benchmark,
        f"{benchmark.extra_info['target']}: {benchmark.extra_info['operation']}",
        asked=f"<= {limit:g} x {floor}",
        got=f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
        holds=ratio.ratio <= limit,
        must=must,
    )


def quartile_ms(times_ns: Sequence[int]) -> float:
    """The lower quartile of raw times, for what is asked in ms: see above."""
    return percentile_us(times_ns, 25) / 1000


def busy_s(*pids: int) -> float:
    """For how long this process and others have had a core; by the clock on the wall where no /proc says it."""
    try:
        others = [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in pids]
    except OSError:
        return perf_counter_ns() / 1e9
    return time.process_time() + sum(map(int, others)) / 1e9


@contextmanager
def quiet_collector() -> Iterator[None]:
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
