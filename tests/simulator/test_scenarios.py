"""The catalogue: its names and numbers, and that every cell is what its table expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell, markdown
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.scenarios.catalogue import SCENARIOS, Absorb, Add, Ask, Scenario, find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

CELLS = [(scenario, target) for scenario in SCENARIOS for target in ("local", "shared")]
WORDS = {
    ("foreign-pod", "local"): "lost",
    ("foreign-pod", "shared"): "ok",
    ("timeout-overwrites-completion", "local"): "ok",
    ("timeout-overwrites-completion", "shared"): "lost",
    ("corrupt-value", "local"): "–",
    ("crash-between-status-and-push", "shared"): "leaked",
    ("crash-before-send", "shared"): "ok",
    ("stale-local-copy", "shared"): "misreported",
    ("poison-message", "shared"): "stuck",
    ("push-applied-twice", "shared"): "duplicated",
    ("pod-killed-mid-upload", "shared"): "lost, stuck",
}


def test_names_and_rows_are_unique() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len({scenario.row for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {*range(1, 21), 26, 28} <= {scenario.row for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_entry_is_whole(scenario: Scenario) -> None:
    calls = [call for line in scenario.lines.values() for call in line]
    names = [call.name for call in calls]
    assert len(set(names)) == len(names)
    images = {image for call in calls if isinstance(call, Add) for image in call.images}
    for call in calls:
        assert set(call.after) <= set(names)
        assert not isinstance(call, Ask) or call.image in images
        assert not isinstance(call, Add) or set(call.again) <= images
        assert isinstance(call, Add | Absorb | Ask)
    assert not scenario.needs_fault or scenario.faults
    assert scenario.what
    assert {fault.name for fault in scenario.faults if fault.heals and fault.drawn} == {
        fault.name for fault in scenario.faults
    }


@pytest.mark.parametrize(
    ("asked", "near"),
    [("late-completoin", "late-completion"), ("", "foreign-pod"), ("#", "foreign-pod"), ("paused", "paused-pod")],
)
def test_a_name_that_is_not_there_brings_near_ones(asked: str, near: str) -> None:
    with pytest.raises(UsageError, match="there is none; near it: ") as raised:
        find(asked)
    assert near in str(raised.value)


def test_a_name_finds_its_entry() -> None:
    assert all(find(scenario.name) is scenario for scenario in SCENARIOS)


@pytest.mark.parametrize(("scenario", "target"), CELLS, ids=[f"{s.name}-{t}" for s, t in CELLS])
def test_every_cell_is_as_expected(run_server: Server, tmp_path: Path, scenario: Scenario, target: str) -> None:
    named = NamedTarget(target, f"podrace.reference.targets:{target}")
    cell = explore_cell(run_server, named, scenario, Bounds(), seed=7, folder=tmp_path)
    assert (cell.verdict, cell.expected) == (scenario.expected(target), scenario.expected(target)), cell.note
    assert cell.words == WORDS.get((scenario.name, target), cell.words)
    assert (cell.counterexample is not None) == (cell.verdict == "violated")


def test_the_matrix_marks_what_was_not_expected() -> None:
    cells = [
        Cell("local", "foreign-pod", "inline", "violated", "violated", {}, words="lost"),
        Cell("shared", "foreign-pod", "inline", "violated", "holds", {}, words="stuck"),
    ]
    assert markdown(cells, [find("foreign-pod")]).splitlines()[2:] == [
        "| 1 | foreign-pod | lost | stuck (unexpected) |"
    ]
