"""Service level objectives: read from a TOML file, judged once at the end of a run. Pure but for the reading."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podrace.loadtests.latency import Latencies
from podrace.simulator.errors import UsageError

OPERATIONS = (
    "SET status",
    "GET status",
    "DEL status",
    "LIST statuses",
    "RPUSH message",
    "LRANGE messages",
    "LTRIM messages",
    "accept",
    "upload status",
    "absorb",
)
"""Every operation that the locustfile measures; an SLO for any other is a mistake."""


@dataclass(frozen=True, kw_only=True)
class Slo:
    """Limits; None is none. `error_rate_max` is a share from 0 to 1, `p99_us` is corrected, by operation."""

    error_rate_max: float | None = None
    lost_max: float | None = None
    duplicated_max: float | None = None
    p99_us: Mapping[str, float] = field(default_factory=dict)


def load_slo(path: Path) -> Slo:
    """Read the file. Raises UsageError where it cannot be read or has an unknown name or no number in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"SLO file {path}: expected a TOML file: {reason}") from error
    limits = content.pop("p99_us", {})
    known = ("error_rate_max", "lost_max", "duplicated_max")
    for name in content:
        if name not in known:
            raise UsageError(f"SLO file {path}: unknown limit {name!r}; expected {', '.join(known)} or p99_us")
    if not isinstance(limits, dict):
        raise UsageError(f"SLO file {path}: p99_us: expected a table of operations, got {limits!r}")
    for name in limits:
        if name not in OPERATIONS:
            raise UsageError(f"SLO file {path}: unknown operation {name!r}; expected one of {', '.join(OPERATIONS)}")
    for name, value in [*content.items(), *limits.items()]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UsageError(f"SLO file {path}: {name}: expected a number of at least 0, got {value!r}")
    return Slo(p99_us=limits, **content)


def breaches(slo: Slo, latencies: Latencies, counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each limit that is exceeded. `counts`: by scenario, of those expected to keep everything."""
    found = []
    failed = sum(errors.total() for errors in latencies.errors.values())
    total = failed + sum(latencies.summary(name, "raw")["count"] for name in latencies.names)
    rate = failed / total if total else 0.0
    if slo.error_rate_max is not None and rate > slo.error_rate_max:
        found.append(f"error rate: {rate:.3%} > {slo.error_rate_max:.3%} ({failed} of {total} operations failed)")
    for kind, limit in (("lost", slo.lost_max), ("duplicated", slo.duplicated_max)):
        for scenario, counted in counts.items():
            if limit is not None and counted.get(kind, 0) > limit:
                found.append(f"{kind} in {scenario}: {counted[kind]} > {limit:g}")
    for name, limit_us in slo.p99_us.items():
        p99_us = latencies.summary(name, "corrected")["p99_us"]
        if p99_us > limit_us:
            found.append(f"{name}: p99 {p99_us} µs > {limit_us:g} µs (from the intended start)")
    return found
