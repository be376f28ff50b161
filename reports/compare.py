"""Two benchmark files compared: by how much each ratio to its floor has changed, with an interval.

Times of two machines, or of one on two days, say nothing beside each other; ratios to a floor that was
measured in the same run do. The interval of a change is by bootstrap: over the processes of both runs and the
blocks of each where the files hold them, else from the interval that they hold.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podrace.reports.benchmarks import Benchmarks, Ratio, benchmarks
from podrace.reports.safety import DAMAGE, in_words, read_object

LIMIT = 1.10
"""How much a ratio may grow."""
RESAMPLES = 500
_Z = 1.96


@dataclass(frozen=True)
class Change:
    """The ratio of one operation in two files; `low` to `high` is the 95 % interval of how it has changed."""

    before: Ratio
    after: Ratio
    low: float
    high: float
    limit: float

    @property
    def factor(self) -> float:
        return self.after.ratio / self.before.ratio

    @property
    def past(self) -> bool:
        """Whether the whole interval is past the limit."""
        return self.low > self.limit


@dataclass(frozen=True)
class Comparison:
    """What two files say. `only_before`, `only_after`: operations that the other does not have."""

    changes: Sequence[Change]
    only_before: Sequence[str]
    only_after: Sequence[str]
    past_own_limit: Sequence[Ratio]
    """Ratios of the second file that exceed the limit stated in that file."""
    damaged: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Nothing is past a limit, and nothing that was measured before is missing or damaged."""
        wrong = self.past_own_limit or self.only_before or self.damaged
        return not wrong and not any(change.past for change in self.changes)


def compare(before: Path, after: Path, *, limit: float = LIMIT, seed: int = 7) -> Comparison:
    """Compare two files: pytest-benchmark's, or small files of ratios. `limit`: how much a ratio may grow.

    Raises ValueError, with the file and what is wrong, for what cannot be read or holds no ratio.
    """
    first, damaged_first, _ = _read(before)
    second, damaged_second, _ = _read(after)
    both = [key for key in first if key in second]
    if not both:
        raise ValueError(f"{before} and {after}: expected operations that both have measured, there is none")
    return Comparison(
        [_change(first[key], second[key], limit, random.Random(f"{seed} {key}")) for key in both],
        [key for key in first if key not in second],
        [key for key in second if key not in first],
        [measured for measured in second.values() if measured.past],
        [*damaged_first, *damaged_second],
    )


def as_text(comparison: Comparison) -> str:
    """One line for each operation, the largest change first, then the verdict."""
    changes = sorted(comparison.changes, key=lambda change: -change.factor)
    names = [change.after.name for change in changes]
    width = max(map(len, names), default=0)
    lines = [
        f"{name:<{width}}  {one.before.ratio:>8.3f} → {one.after.ratio:>8.3f}  "
        f"x {one.factor:.3f} [{one.low:.3f}, {one.high:.3f}]" + (f"  past {one.limit:g}" if one.past else "")
        for name, one in zip(names, changes, strict=True)
    ]
    for title, keys in (("missing", comparison.only_before), ("new", comparison.only_after)):
        if keys:
            lines.append(f"{title}: {', '.join(keys)}")
    lines += [f"damaged: {reason}" for reason in comparison.damaged]
    for ratio in comparison.past_own_limit:
        lines.append(f"{ratio.name}: {ratio.ratio:.3f} times {ratio.floor}, past {ratio.limit:g}")
    past = sum(change.past for change in changes) + len(comparison.past_own_limit)
    missing = f", {len(comparison.only_before)} missing" if comparison.only_before else ""
    lines.append(f"{len(changes)} compared, {past or 'none'} past the limit{missing}")
    return "\n".join(lines)


def reference_ratios(path: Path) -> dict[str, Any]:
    """The small file that is committed, made from a benchmark file: ratios with intervals, machine, versions and date.

    Its percentiles tell a reader how long a thing takes on that machine; nothing is compared with them.
    """
    measured, _, found = _read(path)
    ratios: dict[str, Any] = {}
    for key, one in measured.items():
        ratios[key] = {
            "ratio": round(one.ratio, 3),
            "low": round(one.low or one.ratio, 3),
            "high": round(one.high or one.ratio, 3),
            "floor": one.floor,
        }
        times = {"p50_us": one.p50_us, "p99_us": one.p99_us, "p99_9_us": one.p99_9_us}
        ratios[key] |= {name: round(value, 1) for name, value in times.items() if value is not None}
    about = {"machine": found.machine, "versions": found.versions, "date": found.date}
    return {**about, "ratios": dict(sorted(ratios.items()))}


def _read(path: Path) -> tuple[dict[str, Ratio], list[str], Benchmarks]:
    damaged: list[str] = []
    try:
        found = benchmarks(read_object(path), path.stem, damaged.append)
    except DAMAGE as error:
        raise ValueError(f"{path}: {in_words(error)}") from error
    if not found.ratios:
        raise ValueError(f"{path}: expected ratios to a floor, found none; make it with `make bench`")
    return {one.name: one for one in found.ratios}, [f"{path}: {reason}" for reason in damaged], found


def _change(before: Ratio, after: Ratio, limit: float, rng: random.Random) -> Change:
    drawn = sorted(_draw(after, rng) / _draw(before, rng) for _ in range(RESAMPLES))
    return Change(before, after, drawn[round(RESAMPLES * 0.025)], drawn[round(RESAMPLES * 0.975) - 1], limit)


def _draw(measured: Ratio, rng: random.Random) -> float:
    """A ratio as a repeated run might have measured it."""
    if measured.blocks:
        processes = rng.choices(measured.blocks, k=len(measured.blocks))
        return statistics.median(value for blocks in processes for value in rng.choices(blocks, k=len(blocks)))
    if not measured.low or not measured.high or measured.high < measured.low:
        return measured.ratio
    return measured.ratio * math.exp(rng.gauss(0, math.log(measured.high / measured.low) / (2 * _Z)))
