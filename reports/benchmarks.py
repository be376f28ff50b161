"""Ratios to the floor, from pytest-benchmark's file or from a small file of ratios, and the claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass as checked

from podrace.reports.safety import AS_READ, Text, whole

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@checked(config=AS_READ)
class Ratio:
    """One operation beside its floor in the same run. Times in µs; None where not known."""

    operation: Text
    ratio: Positive
    target: Text = ""
    low: Positive | None = Field(default=None, validation_alias=AliasChoices("ratio_low", "low"))
    high: Positive | None = Field(default=None, validation_alias=AliasChoices("ratio_high", "high"))
    floor: Text = ""
    limit: Positive | None = None
    p50_us: Positive | None = None
    p99_us: Positive | None = None
    p99_9_us: Positive | None = None
    blocks: list[Annotated[list[Positive], Field(min_length=1)]] = Field(default_factory=list)
    """The ratios of single blocks, by process; empty where the file holds none."""

    @property
    def name(self) -> str:
        return f"{self.target} {self.operation}".strip()

    @property
    def past(self) -> bool:
        """Whether it is past its limit, judged by the whole interval."""
        return self.limit is not None and (self.low if self.low is not None else self.ratio) > self.limit


@checked(config=AS_READ)
class Claim:
    """A claim of the specification, or a figure that was asked for; what was measured, and what follows.

    `must`: whether the run fails if the claim does not hold; other claims are only reported.
    """

    claim: Text
    measured: Text
    verdict: Text
    holds: bool
    must: bool = False


@dataclass(frozen=True)
class Benchmarks:
    name: str
    ratios: list[Ratio]
    claims: list[Claim]
    machine: str
    versions: str
    date: str


@checked(config=AS_READ)
class _Benchmark:
    """As pytest-benchmark writes it, with what ours add."""

    extra_info: dict[str, Any] = Field(default_factory=dict)


def benchmarks(document: Mapping[str, Any], name: str, skip: Callable[[str], None]) -> Benchmarks:
    """What the document holds; `skip` is told what of it is damaged. Benchmarks without a floor are left out."""
    extras = [one.extra_info for one in whole(_Benchmark, document.get("benchmarks"), "benchmark", skip)]
    ratios = [one for one in extras if one.get("ratio") is not None]
    for key, value in (document.get("ratios") or {}).items():
        target, _, operation = key.partition(" ")
        named = {"target": target, "operation": operation} if operation else {"operation": target}
        ratios.append(named | (value if isinstance(value, dict) else {"ratio": value}))
    claims = [*(figure for one in extras for figure in one.get("figures", ())), *(document.get("claims") or ())]
    info, commit = document.get("machine_info") or {}, document.get("commit_info") or {}
    cpu = info.get("cpu") or {}
    machine = (cpu.get("brand_raw"), f"{cpu['count']} cores" if cpu.get("count") else "",
               f"{info.get('system', '')} {info.get('release', '')}".strip())  # fmt: skip
    versions = (f"Python {info['python_version']}" if info.get("python_version") else "",
                next((one["versions"] for one in extras if "versions" in one), ""),
                f"commit {str(commit['id'])[:10]}" if commit.get("id") else "")  # fmt: skip
    return Benchmarks(
        name,
        [*whole(Ratio, ratios, "ratio", skip)],
        [*whole(Claim, claims, "claim", skip)],
        ", ".join(filter(None, machine)) or str(document.get("machine") or ""),
        ", ".join(filter(None, versions)) or str(document.get("versions") or ""),
        str(document.get("datetime") or document.get("date") or "")[:10],
    )
