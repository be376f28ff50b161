"""A schedule that does not fit its target is no verdict, and damaged files say so.

test_scenarios.py shows that every counterexample of the matrix runs again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import podrace
from podrace.simulator.app.campaign import explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import SavedSchedule, load, save
from podrace.simulator.app.names import named_target
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

SHARED = named_target("shared")
ROW = "timeout-overwrites-completion"


@pytest.fixture
def saved(run_server: Server, tmp_path: Path) -> SavedSchedule:
    row = find(ROW)
    cell = explore_cell(run_server, SHARED, row, Bounds(preemptions=1), seed=7, folder=tmp_path)
    return load(Path(str(cell.counterexample)))


@pytest.mark.parametrize("fleet", ["inline", "processes"])
def test_a_schedule_that_does_not_fit_the_target_gives_no_verdict(
    run_server: Server, saved: SavedSchedule, fleet: str
) -> None:
    foreign = replace(saved, decisions=(*saved.decisions[:2], ("Q", "go", "SET key"), *saved.decisions[2:]))
    with (
        lab_for(fleet, run_server, SHARED, find(ROW), seed=7) as lab,
        pytest.raises(TargetError, match="step 3: Q is not where the schedule has it"),
    ):
        replay(lab, foreign)


@pytest.mark.parametrize("fleet", ["inline", "processes"])
def test_a_target_that_has_changed_since_is_reported_with_the_step(
    run_server: Server, saved: SavedSchedule, fleet: str
) -> None:
    actor, action, what = saved.decisions[1]
    assert what.startswith("SET upload_status:")
    changed = replace(saved, decisions=(saved.decisions[0], (actor, action, "GET other"), *saved.decisions[2:]))
    with (
        lab_for(fleet, run_server, SHARED, find(ROW), seed=7) as lab,
        pytest.raises(TargetError, match="at step 2 expected 'GET other', got 'SET upload_status:"),
    ):
        replay(lab, changed)


def test_a_file_names_no_prefix_and_no_folder_of_the_run(saved: SavedSchedule, run_server: Server) -> None:
    text = json.dumps(saved.decisions)
    assert run_server.prefix not in text
    assert "podrace-images-" not in text


def test_what_explore_finds_replay_runs_again_from_python(tmp_path: Path) -> None:
    cell = podrace.explore("shared", ROW, preemptions=1, folder=tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "lost")
    again = podrace.replay(str(cell.counterexample), fleet="inline")
    assert (again.judgement.words, again.sentence) == ("lost", cell.sentence)


def test_an_unknown_fleet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fleet 'threads': expected processes or inline"):
        podrace.replay(tmp_path / "x.podrace.json", fleet="threads")


SAVED = SavedSchedule(
    target="t:f",
    scenario="foreign-pod",
    seed=1,
    retries=0,
    verdict="violated",
    words="lost",
    faults=0,
    preemptions=0,
    sentence="gone.",
    decisions=(("A", "go", "call m1"), ("B", "kill", "kill")),
)


def test_a_schedule_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.podrace.json"
    save(path, SAVED)
    assert load(path) == SAVED


DAMAGED = {
    "empty": "",
    "cut": '{"version": 2, "target',
    "no object": "[]",
    "another version": json.dumps({"version": 1}),
    "foreign": '{"name": "podrace"}',
    "fields missing": '{"version": 2}',
    "no triples": '{"version": 2, "decisions": [["A"]]}',
    "binary": "\x00\x01",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.podrace.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"x\.podrace\.json") as raised:
        load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 1),
        ("seed", "seven"),
        ("seed", -1),
        ("retries", None),
        ("decisions", 5),
        ("decisions", None),
        ("decisions", [["A", "go"]]),
        ("faults", 1.5),
        ("unheard-of", 1),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "x.podrace.json"
    save(path, SAVED)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UsageError):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.podrace.json", tmp_path):
        with pytest.raises(UsageError, match=r"expected a \*\.podrace\.json file"):
            load(path)
