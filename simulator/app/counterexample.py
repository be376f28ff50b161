"""A counterexample as a file: a violated schedule that `podrace replay` runs again.

It names no key's prefix, no path and no process: the same seed gives the same bytes anywhere. For each decision it
keeps what that was about, so that a target that has changed since is told from one that has not.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from podrace.simulator.app.runs import read_as
from podrace.simulator.search.schedule import Decision

SUFFIX = ".podrace.json"
MOST_RETRIES = 100
"""No scenario lets a client send a command again more often than this."""


def _written(text: str) -> str:
    """The text, if UTF-8 has it. Raises ValueError for half of a surrogate pair, which JSON can hold."""
    text.encode()
    return text


_Written = Annotated[str, AfterValidator(_written)]


@dataclass(frozen=True, config=ConfigDict(strict=False, extra="forbid"))
class SavedSchedule:
    """What the file holds. `decisions`: (actor, action, what it was about) in order; `sentence`: what went wrong."""

    target: str
    scenario: str
    seed: NonNegativeInt
    retries: Annotated[int, Field(ge=0, le=MOST_RETRIES)]
    verdict: Literal["violated"]
    words: str
    faults: NonNegativeInt
    preemptions: NonNegativeInt
    sentence: str
    decisions: tuple[tuple[_Written, _Written, str], ...]
    version: Literal[2] = 2

    @property
    def schedule(self) -> tuple[Decision, ...]:
        return tuple(Decision(actor, action) for actor, action, _ in self.decisions)


def save(path: Path, saved: SavedSchedule) -> None:
    path.write_text(
        json.dumps(asdict(saved), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
    )


def load(path: Path) -> SavedSchedule:
    """Read the schedule in a file. Raises UsageError if the file is missing, damaged or of another version."""
    return read_as(path, SavedSchedule, noun="counterexample", kind=f"*{SUFFIX} file")
