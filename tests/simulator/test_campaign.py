"""What a cell leaves behind: the schedule, its history, its timeline, and the row of a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell, lab_for, markdown
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.history.events import read_history
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab, ProcessLab
from podrace.simulator.servers.connection import Server

SHARED = NamedTarget("shared", "podrace.reference.targets:shared")


def explore(server: Server, scenario: str, folder: Path, **bounds: float) -> Cell:
    return explore_cell(server, SHARED, find(scenario), Bounds(**bounds), seed=7, folder=folder)  # type: ignore[arg-type]


def test_a_violated_cell_leaves_three_files(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "crash-after-send", tmp_path)
    stem = "shared-crash-after-send"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{stem}{suffix}" for suffix in (".podrace.json", ".history.jsonl", ".txt")
    )
    saved = load(Path(str(cell.counterexample)))
    assert (saved.words, saved.verdict, saved.scenario) == (cell.words, "violated", "crash-after-send")
    assert (saved.seed, saved.faults, saved.preemptions) == (7, 1, 0)
    assert cell.counts["duplicated"] == 1
    assert cell.schedules["run"] > 0
    events = read_history(tmp_path / f"{stem}.history.jsonl")
    assert sum(event.get("deciding", False) for event in events) == 1
    assert next(event for event in events if event.get("deciding"))["what"] == "killed"


def test_a_cell_that_holds_leaves_nothing(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "crash-before-send", tmp_path)
    assert (cell.verdict, cell.words, cell.counterexample, cell.note) == ("holds", "ok", None, "")
    assert cell.schedules["complete"]
    assert list(tmp_path.iterdir()) == []


def test_a_fault_with_nothing_to_strike_is_said(run_server: Server, tmp_path: Path) -> None:
    local = NamedTarget("local", "podrace.reference.targets:local")
    cell = explore_cell(run_server, local, find("corrupt-value"), Bounds(), seed=7, folder=tmp_path)
    assert (cell.verdict, cell.words) == ("holds", "–")
    assert "nothing to strike" in cell.note


def test_progress_counts_the_schedules(run_server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    cell = explore_cell(
        run_server, SHARED, find("foreign-pod"), Bounds(), seed=7, folder=tmp_path, progress=seen.append
    )
    assert seen == list(range(1, cell.schedules["run"] + 1))


def test_a_lab_of_either_kind(run_server: Server) -> None:
    scenario = find("foreign-pod")
    assert isinstance(lab_for("inline", run_server, SHARED, scenario, seed=1, parts={}), InlineLab)
    assert isinstance(lab_for("processes", run_server, SHARED, scenario, seed=1, parts={}), ProcessLab)
    for fleet in ("inline", "processes"):
        with pytest.raises(UsageError, match="has no none"):
            lab_for(fleet, run_server, NamedTarget("x", "podrace.reference.targets:none"), scenario, seed=1, parts={})


def test_the_matrix_has_a_row_a_scenario_and_a_column_a_target() -> None:
    cells = [
        Cell("shared", "late-completion", "inline", "violated", "violated", {}, words="lost, leaked"),
        Cell("mine", "foreign-pod", "inline", "inconclusive", "holds", {}, words="inconclusive"),
    ]
    assert markdown(cells, [find("foreign-pod"), find("late-completion")]) == (
        "| # | failure mode | shared | mine |\n"
        "| --- | --- | --- | --- |\n"
        "| 1 | foreign-pod |  | inconclusive (unexpected) |\n"
        "| 3 | late-completion | lost, leaked |  |\n"
    )
