"""Ratios to the floor, from pytest-benchmark's file or from a small file of ratios, and the claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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

    @property
    def past(self) -> bool:
        """Whether it is past its limit, judged by the whole interval."""
        return self.limit is not None and (self.low if self.low is not None else self.ratio) > self.limit


@dataclass(frozen=True)
class Claim:
    """A claim of the specification, what was measured, and what follows."""

    claim: str
    measured: str
    verdict: str
    holds: bool = True


@dataclass
class Benchmarks:
    name: str
    ratios: list[Ratio] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    machine: str = ""
    versions: str = ""


def benchmarks(document: Mapping[str, Any], *, name: str) -> tuple[Benchmarks, list[str]]:
    """What the document holds, and what of it is damaged. Benchmarks without a floor are left out."""
    found = Benchmarks(name, machine=_machine(document.get("machine_info")), versions=_versions(document))
    damaged: list[str] = []
    for number, item in enumerate(document.get("benchmarks") or (), 1):
        try:
            _add(found, item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            damaged.append(f"benchmark {number}: damaged: {error!r}")
    ratios = document.get("ratios")
    for key, value in ratios.items() if isinstance(ratios, dict) else ():
        target, _, operation = str(key).partition(" " if " " in str(key) else "/")
        try:
            details = value if isinstance(value, dict) else {"ratio": value}
            found.ratios.append(_ratio(details, target if operation else "", operation or target))
        except (KeyError, TypeError, ValueError) as error:
            damaged.append(f"ratio {key!r}: damaged: {error!r}")
    for item in document.get("claims") or ():
        _claim(found, item)
    return found, damaged


def _add(found: Benchmarks, item: Mapping[str, Any]) -> None:
    extra = item.get("extra_info") or {}
    _claim(found, extra)
    if extra.get("ratio") is not None:
        target = str(extra.get("target") or item.get("group") or "")
        found.ratios.append(_ratio(extra, target, str(extra.get("operation") or item["name"])))


def _ratio(details: Mapping[str, Any], target: str, operation: str) -> Ratio:
    def number(*names: str) -> float | None:
        return next((float(details[name]) for name in names if details.get(name) is not None), None)

    floor = details.get("floor", "")
    return Ratio(
        target,
        operation,
        float(details["ratio"]),
        number("ratio_low", "low"),
        number("ratio_high", "high"),
        floor if isinstance(floor, str) else "",
        number("limit", "ratio_limit"),
        number("p50_us"),
        number("p99_us"),
    )


def _claim(found: Benchmarks, item: Any) -> None:
    """A claim in its own words, or a figure that was asked for beside what came."""
    if not isinstance(item, dict):
        return
    if item.get("figure"):
        holds = item.get("holds") is True
        claim = f"{item['figure']}: {item.get('asked', '')}".removesuffix(": ")
        found.claims.append(Claim(claim, str(item.get("got", "")), "holds" if holds else "does not hold", holds))
    elif item.get("claim"):
        holds = item.get("holds") is not False
        found.claims.append(
            Claim(str(item["claim"]), str(item.get("measured", "")), str(item.get("verdict", "")), holds)
        )


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
    at = f"commit {str(commit['id'])[:10]}" if isinstance(commit, dict) and commit.get("id") else ""
    return ", ".join(part for part in (python, at) if part)
