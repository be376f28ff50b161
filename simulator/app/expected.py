"""The file of known violations: with it, CI fails only on a new race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from podrace.simulator.app.runs import Cell, read_as, write_json
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED


def _known(words: str) -> str:
    if not set(words.split(", ")) <= set(KINDS):
        raise ValueError(f"expected some of {', '.join(KINDS)}")
    return words


@dataclass(frozen=True)
class Expected:
    """By target and scenario, the words of what is known to be violated."""

    violated: Mapping[str, Mapping[str, Annotated[str, AfterValidator(_known)]]]
    version: Literal[1] = 1

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
    return read_as(path, Expected, noun="expectations", kind="file that --accept has written")


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
    write_json(path, asdict(Expected(kept)))
