"""A counterexample as a file: a violated schedule that `podrace replay` runs again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from podrace.simulator.app.runs import write_json
from podrace.simulator.errors import UsageError
from podrace.simulator.search.schedule import Decision

VERSION = 1
SUFFIX = ".podrace.json"


@dataclass(frozen=True)
class SavedSchedule:
    """What the file holds. `decisions`: (actor, action) in order; `sentence`: what was lost and why."""

    target: str
    scenario: str
    seed: int
    retries: int
    verdict: str
    words: str
    faults: int
    preemptions: int
    sentence: str
    decisions: tuple[Decision, ...]


def save(path: Path, saved: SavedSchedule) -> None:
    write_json(path, {"version": VERSION, **asdict(saved)})


def load(path: Path) -> SavedSchedule:
    """The schedule in a file; UsageError where it is missing, damaged or of another version."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"counterexample {path}: expected a *{SUFFIX} file: {reason}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise UsageError(f"counterexample {path}: expected version {VERSION} of a *{SUFFIX} file")
    document.pop("version")
    try:
        document["decisions"] = tuple((str(actor), str(action)) for actor, action in document["decisions"])
        saved = SavedSchedule(**document)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"counterexample {path}: damaged: {error}") from error
    numbers = (saved.seed, saved.retries, saved.faults, saved.preemptions)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise UsageError(f"counterexample {path}: expected whole numbers for seed, retries, faults, preemptions")
    return saved
