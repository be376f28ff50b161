"""Charts: percentile curves by operation, rate against p99, ratios to the floor. Drawn by chart.svg.j2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from podrace.reports.benchmarks import Ratio
from podrace.reports.drawing import draw
from podrace.reports.records import Operation, OverTime, Run
from podrace.reports.safety import shorten

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 364, 260, 62, 60, 210
MOST_NINES = 5.0
MOST_OPERATIONS = 8
"""A picture of rate against p99 has no more curves than this."""
MOST_RATIOS = 120


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    label_y: float
    dashed: bool = False
    dots: bool = False


def percentiles(operation: Operation, *, name: str, alone: bool = False) -> Markup:
    """Latency by percentile, both axes logarithmic: corrected for coordinated omission, and as waited for."""
    both = {"corrected": operation.corrected, "closed loop": operation.raw}
    if operation.corrected.curve:
        both["uncorrected"] = both.pop("closed loop")
    curves = {label: points for label, curve in both.items() if (points := operation.points(curve))}
    values = [value for points in curves.values() for _, value in points]
    nines = max((_nines(p) for points in curves.values() for p, _ in points), default=2.0)
    nines = max(1.0, min(MOST_NINES, nines))
    right = WIDTH - 24
    scale_y, ticks_y = _log_axis(values, BOTTOM, TOP, microseconds)

    def point(percentile: float, value: float) -> tuple[float, float]:
        return LEFT + min(_nines(percentile), nines) / nines * (right - LEFT), scale_y(value)

    marks = [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")]
    drawn = [
        Curve(curve, [point(p, v) for p, v in points], number, 26 + 16 * number, dashed=number > 0)
        for number, (curve, points) in enumerate(curves.items())
    ]
    errors = f", {operation.failed:,} failed" if operation.failed else ""
    return _chart(
        name,
        f"{operation.name}: latency by percentile",
        heading=shorten(operation.name, 22),
        note=f"{operation.count:,} at {operation.rate_per_s:,.0f}/s{errors}",
        desc="; ".join(f"{curve}: up to {microseconds(points[-1][1])}" for curve, points in curves.items())
        or "no values",
        ticks_x=[(point(p, 1)[0], label) for p, label in marks if _nines(p) <= nines + 0.01],
        ticks_y=ticks_y,
        under="percentile",
        curves=drawn,
        right=right,
        alone=alone,
    )


def rate_against_p99(runs: Sequence[Run], *, name: str, alone: bool = False) -> Markup:
    """Each operation's p99 at each run's rate, one point a run; and the steps of a search for the highest rate.

    Runs of open and of closed loops are curves of their own: in a closed loop the rate is a result, not a cause. So
    are those of different targets.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    several = len({cell.target for run in runs for cell in run.cells}) > 1
    for run in runs:
        prefix = f"{run.cells[0].target}: " if several and run.cells else ""
        if run.rates:
            found.setdefault(f"{prefix}all, searched", []).extend(run.rates)
        for operation in run.operations:
            p99_us = operation.at_us(99)
            if p99_us and operation.rate_per_s > 0:
                named = f"{prefix}{operation.name}" + (", closed loop" if run.is_closed else "")
                found.setdefault(named, []).append((operation.rate_per_s, p99_us))
    busiest = sorted(found, key=lambda key: -max(found[key])[1])[:MOST_OPERATIONS]
    rates = [rate for key in busiest for rate, _ in found[key]]
    scale_y, ticks_y = _log_axis([p99 for key in busiest for _, p99 in found[key]], 300, TOP, microseconds)
    scale_x, ticks_x = _log_axis(rates, LEFT, 560, lambda rate: f"{rate:,.10g}")
    ends = {key: [(scale_x(rate), scale_y(p99)) for rate, p99 in sorted(found[key])] for key in busiest}
    label_y = _apart({key: points[-1][1] for key, points in ends.items()}, most=296)
    more = f"; {len(found) - len(busiest)} more operations are not shown" if len(found) > len(busiest) else ""
    return _chart(
        name,
        "Rate against p99",
        note="one point a run; corrected, but in closed loops" + more,
        desc="; ".join(f"{key}: {microseconds(found[key][-1][1])}" for key in busiest) or "no values",
        ticks_x=ticks_x,
        ticks_y=ticks_y,
        under="operations per second",
        curves=[
            Curve(shorten(key, 26), ends[key], number % 3, label_y[key] + 3.5, dots=True)
            for number, key in enumerate(busiest)
        ],
        right=560,
        width=760,
        height=350,
        bottom=300,
        alone=alone,
    )


def ratios(found: Sequence[Ratio], baseline: Sequence[Ratio] = (), *, name: str, alone: bool = False) -> Markup:
    """Each operation's ratio to its floor, with its interval; hollow: the baseline's; a red tick: the limit."""
    shown = sorted(found, key=lambda ratio: ratio.target)[:MOST_RATIOS]
    before = {ratio.name: ratio.ratio for ratio in baseline}
    every = [1.0, *(value for one in shown for value in (one.low, one.high, one.ratio, one.limit) if value)]
    every += [before[one.name] for one in shown if one.name in before]
    left, right = 330, 850
    x_at, ticks_x = _log_axis(every, left, right, lambda value: f"{value:.4g}")
    bars: list[dict[str, Any]] = []
    for number, one in enumerate(shown):
        low, high = one.low or one.ratio, one.high or one.ratio
        label = shorten(one.name, 44)
        full = one.name + (f", floor: {one.floor}" if one.floor else "")
        values = {"x": one.ratio, "low": low, "high": high, "limit": one.limit, "was": before.get(one.name)}
        bar: dict[str, Any] = {name: value and x_at(value) for name, value in values.items()}
        bar["said"] = f"{one.ratio:.2f}" + (f"  ({low:.2f}–{high:.2f})" if low != high else "")
        bar |= {"y": TOP + 14 + 26 * number, "label": label, "full": full if full != label else "", "past": one.past}
        bars.append(bar)
    bottom = TOP + 8 + 26 * len(shown)
    more = f"; {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    hollow = "; hollow: baseline" if before else ""
    tick = "; red tick: limit" if any(one.limit for one in shown) else ""
    return _chart(
        name,
        "Ratio to the floor",
        note="1 is the same as the floor" + hollow + tick + more,
        desc="; ".join(f"{bar['full'] or bar['label']} {bar['said']}" for bar in bars[:12]),
        ticks_x=ticks_x,
        bars=bars,
        left=left,
        right=right,
        width=1040,
        height=bottom + 36,
        bottom=bottom,
        alone=alone,
    )


def over_time(run: OverTime, *, name: str, alone: bool = False) -> dict[str, Markup]:
    """Calls a second and losses so far, then latencies, over the seconds of a run; faults are shaded."""
    last_s = max((one.at_s for one in run.bins), default=1.0)
    left, right, bottom = LEFT, 700, 210

    def x_at(second: float) -> float:
        return left + min(second, last_s) / last_s * (right - left)

    shades = [
        (x_at(one.from_s), max(1.0, x_at(one.until_s) - x_at(one.from_s)), f"{one.name}: {one.place}")
        for one in run.faults
    ]
    step_s = next((step for step in (1, 2, 5, 10, 30, 60, 300, 1800) if last_s / step <= 10), 7200)
    lost = int(run.bins[-1].lost) if run.bins else 0
    common: dict[str, Any] = {
        "ticks_x": [(x_at(second), f"{second} s") for second in range(0, int(last_s) + 1, step_s)],
        "shades": shades,
        "left": left,
        "right": right,
        "width": 760,
        "height": 250,
        "bottom": bottom,
        "alone": alone,
    }
    most = max([1.0, float(lost), *(one.rate_per_s for one in run.bins)])
    rates = [(x_at(one.at_s), bottom - one.rate_per_s / most * (bottom - TOP)) for one in run.bins]
    losses = [(x_at(one.at_s), bottom - one.lost / most * (bottom - TOP)) for one in run.bins]
    latencies: dict[str, list[tuple[float, float]]] = {
        "p50": [(one.at_s, one.p50_us) for one in run.bins if one.p50_us],
        "p99": [(one.at_s, one.p99_us) for one in run.bins if one.p99_us],
    }
    scale_y, ticks_y = _log_axis(
        [value for points in latencies.values() for _, value in points], bottom, TOP, microseconds
    )
    faults = f"{len(run.faults)} faults, shaded"
    return {
        f"{name}-rate": _chart(
            f"{name}-rate",
            f"{run.target}: calls a second, and losses so far",
            note=f"{faults}; {lost} lost, counted where they were handed in",
            desc=f"up to {most:.0f} a second; {lost} lost; {faults}",
            ticks_y=[(bottom - part * (bottom - TOP), f"{most * part:,.0f}") for part in (0.0, 0.5, 1.0)],
            curves=[Curve("calls a second", rates, 0, 22), Curve("lost so far", losses, 3, 38, dashed=True)],
            **common,
        ),
        f"{name}-latency": _chart(
            f"{name}-latency",
            f"{run.target}: latency",
            note=faults,
            desc=f"p50 and p99 over {last_s:.0f} s; {faults}",
            ticks_y=ticks_y,
            curves=[
                Curve(label, [(x_at(second), scale_y(value)) for second, value in points], number, 22 + 16 * number)
                for number, (label, points) in enumerate(latencies.items())
                if points
            ],
            **common,
        ),
    }


def microseconds(value: float) -> str:
    """1500 → `1.5 ms`."""
    unit, factor = ("µs", 1.0) if value < 1e3 else ("ms", 1e3) if value < 1e6 else ("s", 1e6)
    return f"{value / factor:.3g} {unit}"


def _chart(name: str, title: str, *, alone: bool, **values: Any) -> Markup:
    defaults: dict[str, Any] = dict.fromkeys(("under", "curves", "bars", "ticks_y", "shades"), ())
    defaults |= {"heading": title, "one": "1" if "bars" in values else None, "left": LEFT, "top": TOP}
    defaults |= {"bottom": BOTTOM, "width": WIDTH, "height": HEIGHT}
    return draw("chart.svg.j2", id=name, title=title, alone=alone, **(defaults | values))


def _nines(percentile: float) -> float:
    return -math.log10(1 - max(0.0, percentile) / 100)


def _log_axis(values: Sequence[float], begin: float, end: float, label: Any) -> tuple[Any, list[tuple[float, str]]]:
    """A logarithmic scale from values to pixels, and its ticks: decades, with 2 and 5 where these are few."""
    least, most = min(values, default=1.0), max(values, default=10.0)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most) + 1e-9)
    ticks = [10.0**power * part for power in range(low, high + 1) for part in (1, 2, 5)]
    within = [tick for tick in ticks if least <= tick <= most]
    below = max((tick for tick in ticks if tick <= least), default=10.0**low)
    above = min((tick for tick in ticks if tick >= most and tick > below), default=10.0**high)
    if len(within) > 6:
        within = [tick for tick in within if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9]
    bottom, tall = math.log10(below), math.log10(above) - math.log10(below)

    def scale(value: float) -> float:
        return begin + (math.log10(value) - bottom) / tall * (end - begin)

    shown = sorted({below, above, *within}) if len(within) <= 6 else within
    return scale, [(scale(tick), label(tick)) for tick in shown]


def _apart(wanted: dict[str, float], *, most: float, gap: float = 14.0) -> dict[str, float]:
    """The labels' places, moved down until none lies on another, and up again where the last would be too low."""
    placed: dict[str, float] = {}
    order = sorted(wanted, key=lambda key: wanted[key])
    last = -math.inf
    for key in order:
        last = placed[key] = max(wanted[key], last + gap)
    below = most + gap
    for key in reversed(order):
        below = placed[key] = min(placed[key], below - gap)
    return placed
