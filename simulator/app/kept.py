"""What is kept of a free fleet's run: its cell with all that was found, the run over time, the events that show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from podrace.simulator.app import over_time, timeline
from podrace.simulator.app.free_run import HISTORY, FreeRun
from podrace.simulator.app.runs import Cell, stem_of, write_json
from podrace.simulator.history.events import write_history


def judged_cell(cell: Cell, found: FreeRun, *, whole: FreeRun | None = None) -> Cell:
    """The cell with what came of the run, or of a part of it: its details are those of the whole."""
    return replace(
        cell,
        verdict=found.verdict,
        counts=found.counts,
        words=found.words,
        note=found.note,
        sentence=found.findings[0].sentence if found.findings else "",
        elapsed_s=round(found.busy_s + found.rest_s, 3),
        details=_details(whole or found),
    )


def drawn(found: FreeRun, *, width: int = 118) -> str:
    """The events that show the first finding, as text."""
    return timeline.draw(found.shown, width=width)


def write_shown(folder: Path, cell: Cell, found: FreeRun) -> None:
    """Write the events that show the first finding, as text and for a picture, as those of a counterexample."""
    if found.shown:
        stem = stem_of(cell.target, cell.scenario)
        text = f"{drawn(found)}\n\n{cell.sentence}\n"
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
        write_history(folder / f"{stem}.history.jsonl", found.shown)


def write_over_time(folder: Path, target: str, found: FreeRun) -> None:
    """Write the run over time, beside its history."""
    spans = over_time.over_time(folder / HISTORY, found.findings, target=target, busy_s=found.busy_s)
    write_json(folder / over_time.FILE, spans)


def _details(found: FreeRun) -> dict[str, Any]:
    return {
        "struck": dict(found.struck),
        "operations": found.operations,
        "busy_s": round(found.busy_s, 3),
        "rest_s": round(found.rest_s, 3),
        "of_later_pods": dict(found.since.counts) if found.since else {},
        "findings": [{"kind": one.kind, "subject": one.subject, "sentence": one.sentence} for one in found.findings],
        "objects": [
            {"key": one.key, "verdict": one.verdict, "shows": [shown._asdict() for shown in one.shows]}
            for one in found.objects
            if one.verdict != "holds"
        ],
    }
