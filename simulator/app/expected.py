"""The file of known violations: with it, CI fails only on a new race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podrace.simulator.app.runs import Cell, read_json, write_json
from podrace.simulator.errors import UsageError
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED

VERSION = 1


@dataclass(frozen=True)
class Expected:
    """By target and scenario, the words of what is known to be violated."""

    violated: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def applied(self, cell: Cell) -> Cell:
        """The cell with what is expected of it: the known violation, or anything less bad."""
        known = self.violated.get(cell.target, {}).get(cell.scenario)
        if known is None:
            return replace(cell, expected=HOLDS)
        if cell.verdict == VIOLATED and set(cell.words.split(", ")) <= set(known.split(", ")):
            return replace(cell, expected=VIOLATED, known=True)
        if cell.verdict in (VIOLATED, INCONCLUSIVE):
            return replace(cell, expected=VIOLATED if cell.verdict == INCONCLUSIVE else HOLDS)
        note = "; ".join(filter(None, [cell.note, f"known to be violated ({known}), and no longer"]))
        return replace(cell, expected=cell.verdict, note=note)


def load(path: Path) -> Expected:
    """Read a file. Raises UsageError, naming the place, if it is missing or damaged."""
    document = read_json(path, noun="expectations")
    violated: Any = document.get("violated") if isinstance(document, dict) else None
    if not isinstance(violated, dict) or document.get("version") != VERSION:
        raise UsageError(f"expectations {path}: expected version {VERSION} of a file that --accept has written")
    for target, rows in violated.items():
        for scenario, words in rows.items() if isinstance(rows, dict) else [("?", None)]:
            if not isinstance(words, str) or not set(words.split(", ")) <= set(KINDS):
                raise UsageError(f"expectations {path}: {target}, {scenario}: expected some of {', '.join(KINDS)}")
    return Expected(violated)


def save(path: Path, cells: Sequence[Cell]) -> None:
    """Write the cells' violations into a file; entries of other targets and scenarios in it stay."""
    before = load(path).violated if path.exists() else {}
    violated = {target: dict(rows) for target, rows in before.items()}
    for cell in cells:
        rows = violated.setdefault(cell.target, {})
        if cell.verdict == VIOLATED:
            rows[cell.scenario] = cell.words
        elif cell.verdict != INCONCLUSIVE:
            rows.pop(cell.scenario, None)
    kept = {target: dict(sorted(rows.items())) for target, rows in sorted(violated.items()) if rows}
    write_json(path, {"version": VERSION, "violated": kept})
