"""What a cell leaves behind: the schedule, its history, its timeline, and what runs again from them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load, save
from podrace.simulator.app.names import NamedTarget
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.history.events import read_history
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.scenarios.uploads import UPLOADS
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab, ProcessLab, current_core, one_core
from podrace.simulator.servers.connection import Server

SHARED = NamedTarget("shared", "podrace.reference.targets:shared")
LOCAL = NamedTarget("local", "podrace.reference.targets:local")


def explore(
    server: Server, scenario: str | Scenario, folder: Path, *, target: NamedTarget = SHARED, **more: Any
) -> Cell:
    named = scenario if isinstance(scenario, Scenario) else find(scenario)
    more = {"bounds": Bounds(), "on_processes": False, **more}
    return explore_cell(server, target, named, seed=7, folder=folder, **more)


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
    assert [event["what"] for event in events if event.get("deciding")] == ["killed"]


def test_the_files_of_a_cell_name_neither_the_prefix_nor_the_folder_of_the_run(
    run_server: Server, tmp_path: Path
) -> None:
    written = []
    for prefix in ("one:", "another-one:"):
        folder = tmp_path / prefix
        folder.mkdir()
        explore(replace(run_server, prefix=prefix), "expired-before-absorbed", folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_a_cell_that_holds_leaves_nothing(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "crash-before-send", tmp_path)
    assert (cell.verdict, cell.words, cell.counterexample, cell.note) == ("holds", "ok", None, "")
    assert cell.schedules["complete"]
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_holds_is_run_on_processes_too(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "foreign-status", tmp_path, on_processes=True)
    assert (cell.verdict, cell.note) == ("holds", "")


def test_a_fault_with_nothing_to_strike_is_noted_in_the_cell(run_server: Server, tmp_path: Path) -> None:
    scenario = replace(find("foreign-status"), faults=find("trim-applied-twice").faults)
    cell = explore(run_server, scenario, tmp_path)
    assert (cell.verdict, cell.words) == ("not-applicable", "–")
    assert "nothing to strike" in cell.note


def test_a_spent_budget_is_inconclusive_and_says_so(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "two-users", tmp_path, bounds=Bounds(preemptions=8, budget_s=0.1))
    assert (cell.verdict, cell.words, cell.schedules["complete"]) == ("inconclusive", "inconclusive", False)
    assert "budget of 0.1 s" in cell.note


def test_a_target_that_cannot_be_judged_is_inconclusive_with_its_reason(run_server: Server, tmp_path: Path) -> None:
    scenario = Scenario("no-such-method", {"A": (Call("dance", "dance"),)}, workload=UPLOADS)
    cell = explore(run_server, scenario, tmp_path)
    assert (cell.verdict, cell.words) == ("inconclusive", "inconclusive")
    assert "dance" in cell.note


def test_progress_counts_the_schedules(run_server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    cell = explore(run_server, "foreign-pod", tmp_path, progress=seen.append)
    assert seen[0] == 1
    assert seen == sorted(seen)
    assert seen[-1] == cell.schedules["run"]


def test_lab_for_makes_a_lab_of_either_fleet_and_refuses_a_wrong_target(run_server: Server) -> None:
    scenario = find("foreign-pod")
    assert isinstance(lab_for("inline", run_server, SHARED, scenario, seed=1), InlineLab)
    assert isinstance(lab_for("processes", run_server, SHARED, scenario, seed=1), ProcessLab)
    for fleet in ("inline", "processes"):
        with pytest.raises(UsageError, match="has no none"):
            lab_for(fleet, run_server, NamedTarget("x", "podrace.reference.targets:none"), scenario, seed=1)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are put on cores on Linux alone")
def test_an_exploration_and_its_server_stay_on_the_core_that_it_began_on(run_server: Server) -> None:
    allowed = os.sched_getaffinity(0)
    for core in allowed:
        os.sched_setaffinity(0, {core})
        assert current_core() == core
    os.sched_setaffinity(0, allowed)
    assert run_server.embedded is not None
    with one_core(run_server):
        (core,) = os.sched_getaffinity(0)
        assert os.sched_getaffinity(run_server.embedded.pid) == {core}
    assert os.sched_getaffinity(0) == allowed


def test_a_saved_schedule_runs_again_as_it_did(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "foreign-pod", tmp_path, target=LOCAL)
    saved = load(Path(str(cell.counterexample)))
    with lab_for("inline", run_server, LOCAL, find("foreign-pod"), seed=saved.seed) as lab:
        again = replay(lab, saved)
    assert (again.judgement.words, again.sentence) == (saved.words, saved.sentence)
    recorded = read_history(tmp_path / "local-foreign-pod.history.jsonl")
    assert [event["says"] for event in again.events] == [event["says"] for event in recorded]


def test_a_schedule_of_a_target_that_has_changed_names_the_first_step_that_differs(
    run_server: Server, tmp_path: Path
) -> None:
    cell = explore(run_server, "foreign-pod", tmp_path, target=LOCAL)
    path = Path(str(cell.counterexample))
    saved = load(path)
    actor, action, _ = saved.decisions[1]
    changed = (saved.decisions[0], (actor, action, "GET something-else"), *saved.decisions[2:])
    save(path, replace(saved, decisions=changed))
    with (
        lab_for("inline", run_server, LOCAL, find("foreign-pod"), seed=7) as lab,
        pytest.raises(TargetError, match="has changed since this was found: at step 2 expected 'GET something-else'"),
    ):
        replay(lab, load(path))


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"version": 1}', "[" * 100_000])
def test_a_damaged_counterexample_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.podrace.json"
    path.write_text(damage, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.podrace\.json: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)
