"""Limits: read from a TOML file, judged at the end of a run and, to abort it, during it. Pure but for the reading."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podrace.loadtests.latency import SUMMARY, Latencies
from podrace.simulator.errors import UsageError

OURS = Path(__file__).with_name("slo.toml")
AT_MOST = (*SUMMARY, "max_us", "error_rate")
AT_LEAST = ("rate_per_s", "samples")
SCALARS = ("error_rate", "lost", "duplicated", "warm_up_s")
SHARE_MAX = {"error_rate": 1.0}


@dataclass(frozen=True, kw_only=True)
class Slo:
    """Limits; None is none. `operations`: by operation, each a value by one of AT_MOST and AT_LEAST."""

    error_rate: float | None = None
    lost: float | None = None
    duplicated: float | None = None
    warm_up_s: float = 0.0
    abort: bool = False
    operations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A limit that is exceeded. `excuse`: why that may be the generator's doing, so that nobody knows."""

    text: str
    excuse: str = ""

    def __str__(self) -> str:
        return f"{self.text}; inconclusive: {self.excuse}" if self.excuse else self.text


Explain = Callable[[float, float], str]
"""Given by how many µs a latency exceeds its limit, and at which percentile: the generator's excuse, or ''."""


def load_slo(path: str) -> Slo:
    """Read the file, ours where `path` is empty.

    Raises UsageError where it cannot be read or has an unknown name or a value out of its range in it.
    """
    file = Path(path or OURS)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"limits {file}: expected a TOML file: {reason}") from error
    operations, abort = content.pop("operations", {}), content.pop("abort", False)
    if not isinstance(operations, dict) or not all(isinstance(limits, dict) for limits in operations.values()):
        raise UsageError(f'limits {file}: operations: expected tables, such as [operations."GET status"]')
    if not isinstance(abort, bool):
        raise UsageError(f"limits {file}: abort: expected true or false, got {abort!r}")
    _check(file, "", content, SCALARS)
    for name, limits in operations.items():
        _check(file, f"{name}: ", limits, (*AT_MOST, *AT_LEAST))
    return Slo(operations=operations, abort=abort, **content)


def only(slo: Slo, limited: set[str]) -> Slo:
    """The limits of these operations only."""
    return replace(slo, operations={name: limits for name, limits in slo.operations.items() if name in limited})


def _check(file: Path, where: str, limits: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name, value in limits.items():
        if name not in known:
            raise UsageError(f"limits {file}: {where}unknown limit {name!r}; expected {', '.join(known)}")
        most = SHARE_MAX.get(name, 1e12)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise UsageError(f"limits {file}: {where}{name}: expected a number from 0 to {most:g}, got {value!r}")


def breaches(
    slo: Slo,
    latencies: Latencies,
    counts: Mapping[str, Mapping[str, Any]],
    *,
    duration_s: float,
    explain: Explain = lambda excess_us, percentile: "",
    running: bool = False,
) -> list[Breach]:
    """One for each limit that is exceeded. `counts`: of the scenarios that are expected to keep everything.

    `running`: the run goes on, or was cut short, so lower limits (AT_LEAST) are not judged.
    """
    found = []
    failed = sum(errors.total() for errors in latencies.errors.values())
    total = failed + sum(latencies.summary(name, "raw")["count"] for name in latencies.names)
    if slo.error_rate is not None:
        found += _error_rate("error rate", failed, total, slo.error_rate)
    for kind, limit in (("lost", slo.lost), ("duplicated", slo.duplicated)):
        for scenario, counted in counts.items():
            if limit is not None and counted.get(kind, 0) > limit:
                found.append(Breach(text=f"{kind} in {scenario}: {counted[kind]} > {limit:g}"))
    for name, limits in slo.operations.items():
        if name in latencies.names:
            found += _operation(name, limits, latencies, duration_s, explain, running)
        elif not running:
            found.append(Breach(text=f"{name}: has a limit and never ran"))
    return found


def _error_rate(name: str, failed: int, total: int, limit: float) -> list[Breach]:
    rate = failed / total if total else 0.0
    text = f"{name}: {rate:.3%} > {limit:.3%} ({failed} of {total} operations failed)"
    return [Breach(text=text)] if rate > limit else []


def _operation(
    name: str, limits: Mapping[str, float], latencies: Latencies, duration_s: float, explain: Explain, running: bool
) -> list[Breach]:
    found = []
    summary = latencies.judged(name)
    corrected = " (from the intended start)" if "corrected" in latencies.kinds(name) else ""
    for limit_name, limit in limits.items():
        if limit_name == "error_rate":
            failed = latencies.summary(name, "failed")["count"]
            found += _error_rate(f"{name}: error rate", failed, failed + summary["count"], limit)
        elif limit_name in AT_LEAST:
            value = summary["count"] / (1 if limit_name == "samples" else duration_s or 1)
            if value < limit and not running:
                # no task is skipped, so waking up late does not lower the rate; having no time at all does
                excuse = explain(math.inf, 100.0) if limit_name == "rate_per_s" else ""
                found.append(Breach(text=f"{name}: {limit_name} {value:.6g} < {limit:g}", excuse=excuse))
        elif summary[limit_name] is None:
            if not running:
                found.append(Breach(text=f"{name}: {limit_name}: too few samples ({summary['count']})"))
        elif summary[limit_name] > limit:
            text = f"{name}: {limit_name} {summary[limit_name]} > {limit:g}{corrected}"
            excuse = explain(summary[limit_name] - limit, SUMMARY.get(limit_name, 100.0))
            found.append(Breach(text=text, excuse=excuse))
    return found
