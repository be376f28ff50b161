"""Ratios to the floor, from pytest-benchmark's file or from a small file of ratios, and the claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podrace.reports.safety import DAMAGE


@dataclass(frozen=True)
class Ratio:
    """One operation beside its floor in the same run. Times in µs; None where not known."""

    target: str
    operation: str
    ratio: float
    low: float | None = None
    high: float | None = None
    floor: str = ""
    limit: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    p99_9_us: float | None = None

    @property
    def past(self) -> bool:
        """Whether it is past its limit, judged by the whole interval."""
        return self.limit is not None and (self.low if self.low is not None else self.ratio) > self.limit


@dataclass(frozen=True)
class Claim:
    """A claim of the specification, or a figure that was asked for; what was measured, and what follows.

    `must`: whether the run fails if the claim does not hold; other claims are only reported.
    """

    claim: str
    measured: str
    verdict: str
    holds: bool = True
    must: bool = False


@dataclass
class Benchmarks:
    name: str
    ratios: list[Ratio] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    machine: str = ""
    versions: str = ""
    date: str = ""


def benchmarks(document: Mapping[str, Any], *, name: str) -> tuple[Benchmarks, list[str]]:
    """What the document holds, and what of it is damaged. Benchmarks without a floor are left out."""
    found = Benchmarks(
        name,
        machine=_machine(document.get("machine_info")) or str(document.get("machine") or ""),
        versions=_versions(document) or str(document.get("versions") or ""),
        date=str(document.get("datetime") or document.get("date") or "")[:10],
    )
    damaged: list[str] = []
    for number, item in enumerate(document.get("benchmarks") or (), 1):
        try:
            _add(found, item)
        except DAMAGE as error:
            damaged.append(f"benchmark {number}: damaged: {error!r}")
    ratios = document.get("ratios")
    for key, value in ratios.items() if isinstance(ratios, dict) else ():
        target, _, operation = str(key).partition(" ")
        try:
            details = value if isinstance(value, dict) else {"ratio": value}
            found.ratios.append(_ratio(details, target if operation else "", operation or target))
        except DAMAGE as error:
            damaged.append(f"ratio {key!r}: damaged: {error!r}")
    for number, item in enumerate(document.get("claims") or (), 1):
        try:
            _claim(found, item)
        except DAMAGE as error:
            damaged.append(f"claim {number}: damaged: {error!r}")
    return found, damaged


def _add(found: Benchmarks, item: Mapping[str, Any]) -> None:
    extra = item.get("extra_info") or {}
    for figure in extra.get("figures") or ():
        _figure(found, figure)
    if extra.get("ratio") is not None:
        target = str(extra.get("target") or item.get("group") or "")
        found.ratios.append(_ratio(extra, target, str(extra.get("operation") or item["name"])))


def _ratio(details: Mapping[str, Any], target: str, operation: str) -> Ratio:
    def number(*names: str) -> float | None:
        value = next((float(details[name]) for name in names if details.get(name) is not None), None)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{operation}: expected a number above 0, got {value}")
        return value

    ratio = number("ratio")
    if ratio is None:
        raise ValueError(f"{operation}: expected a ratio")
    floor = details.get("floor", "")
    return Ratio(
        target,
        operation,
        ratio,
        number("ratio_low", "low"),
        number("ratio_high", "high"),
        floor if isinstance(floor, str) else "",
        number("limit"),
        number("p50_us"),
        number("p99_us"),
        number("p99_9_us"),
    )


def _claim(found: Benchmarks, item: Mapping[str, Any]) -> None:
    verdict = str(item["verdict"])
    found.claims.append(Claim(str(item["claim"]), str(item["measured"]), verdict, verdict.startswith("holds")))


def _figure(found: Benchmarks, item: Mapping[str, Any]) -> None:
    holds = item["holds"] is True
    verdict = "holds" if holds else "does not hold"
    claim = f"{item['figure']}: {item['asked']}"
    found.claims.append(Claim(claim, str(item["got"]), verdict, holds, item.get("must") is True))


def _machine(info: Any) -> str:
    if not isinstance(info, dict):
        return ""
    cpu = info.get("cpu")
    brand = cpu.get("brand_raw", "") if isinstance(cpu, dict) else ""
    count = f"{cpu['count']} cores" if isinstance(cpu, dict) and cpu.get("count") else ""
    system = f"{info.get('system', '')} {info.get('release', '')}".strip()
    return ", ".join(part for part in (brand, count, system) if part)


def _versions(document: Mapping[str, Any]) -> str:
    info, commit = document.get("machine_info"), document.get("commit_info")
    python = f"Python {info['python_version']}" if isinstance(info, dict) and info.get("python_version") else ""
    commit_id = f"commit {str(commit['id'])[:10]}" if isinstance(commit, dict) and commit.get("id") else ""
    extras = [item.get("extra_info") for item in document.get("benchmarks") or () if isinstance(item, dict)]
    libraries = next(
        (str(extra["versions"]) for extra in extras if isinstance(extra, dict) and "versions" in extra), ""
    )
    return ", ".join(part for part in (python, libraries, commit_id) if part)
