"""Limits: read from a TOML file, judged at the end of a run and, to abort it, during it. Pure but for the reading."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from podrace.loadtests.latency import SUMMARY, Latencies
from podrace.simulator.errors import UsageError

OURS = Path(__file__).with_name("slo.toml")
AT_LEAST = ("rate_per_s", "samples")
Number = Annotated[float | None, Field(ge=0, le=1e12)]
Share = Annotated[float | None, Field(ge=0, le=1)]


class Limits(BaseModel, extra="forbid", strict=True, frozen=True):
    """Of one operation: AT_LEAST, all others at most; None is none."""

    p50_us: Number = None
    p90_us: Number = None
    p99_us: Number = None
    p99_9_us: Number = None
    max_us: Number = None
    error_rate: Share = None
    rate_per_s: Number = None
    samples: Number = None


class Slo(BaseModel, extra="forbid", strict=True, frozen=True):
    """The limits of a run."""

    error_rate: Share = None
    warm_up_s: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    abort: bool = False
    operations: dict[str, Limits] = {}


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
    """Read the file, ours where `path` is empty. Raises UsageError for what it cannot be, in one line."""
    file = Path(path or OURS)
    try:
        return Slo(**tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        said = "unknown limit" if first["type"] == "extra_forbidden" else f"{first['msg']}, got {first['input']!r}"
        raise UsageError(f"limits {file}: {': '.join(map(str, first['loc']))}: {said}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"limits {file}: expected a TOML file: {reason}") from error


def only(slo: Slo, limited: set[str]) -> Slo:
    """The limits of these operations only."""
    return slo.model_copy(update={"operations": {k: v for k, v in slo.operations.items() if k in limited}})


def breaches(
    slo: Slo,
    latencies: Latencies,
    *,
    duration_s: float,
    explain: Explain = lambda excess_us, percentile: "",
    running: bool = False,
) -> list[Breach]:
    """One for each limit that is exceeded.

    `running`: the run goes on, or was cut short, so lower limits (AT_LEAST) are not judged.
    """
    found = []
    failed = sum(errors.total() for errors in latencies.errors.values())
    total = failed + sum(latencies.summary(name, "raw")["count"] for name in latencies.names)
    if slo.error_rate is not None:
        found += _error_rate("error rate", failed, total, slo.error_rate)
    for name, limits in slo.operations.items():
        if name in latencies.names:
            found += _operation(name, limits.model_dump(exclude_none=True), latencies, duration_s, explain, running)
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
