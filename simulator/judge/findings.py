"""One thing that went wrong, and all that one run shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from podrace.simulator.errors import TargetError

KINDS = ("lost", "duplicated", "misreported", "stuck", "leaked")
"""The kinds of what can go wrong in a run, worst first."""

HOLDS, VIOLATED, INCONCLUSIVE = "holds", "violated", "inconclusive"
NOT_APPLICABLE = "not-applicable"
"""The verdict if a scenario's faults found nothing to strike. Shown as `–`; it never counts as `holds`."""


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong. `kind` is one of KINDS; `subject` is a message, an image, a user, a key or a call."""

    kind: str
    subject: str
    sentence: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TargetError(f"kind of a finding: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not isinstance(self.subject, str) or not isinstance(self.sentence, str):
            raise TargetError(
                f"subject and sentence of a finding: expected texts, got {self.subject!r}, {self.sentence!r}"
            )


@dataclass(frozen=True)
class Judgement:
    """What one run shows. `counted` is what its workload counts, such as accepted and delivered."""

    findings: tuple[Finding, ...]
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return VIOLATED if self.findings else HOLDS

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of what was found, worst first."""
        found = {finding.kind for finding in self.findings}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def words(self) -> str:
        return ", ".join(self.kinds) or "ok"

    @property
    def counts(self) -> dict[str, int]:
        counted = Counter(finding.kind for finding in self.findings)
        return {"accepted": 0, "delivered": 0, **self.counted} | {kind: counted[kind] for kind in KINDS}


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings, worst kind first, otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: KINDS.index(finding.kind)))
