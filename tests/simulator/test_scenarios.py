"""The catalogue: its names and numbers, and that every cell is as its table expects, inline and on processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.names import TARGETS, NamedTarget, named_target
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.judge.findings import VIOLATED, Finding
from podrace.simulator.scenarios.catalogue import SCENARIOS, find
from podrace.simulator.scenarios.model import Call, Ref, Scenario, Workload
from podrace.simulator.scenarios.uploads import UPLOADS, Uploads, add
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

pytestmark = pytest.mark.wide

CELLS = [(scenario, target) for scenario in SCENARIOS for target in TARGETS]
ROWS = {*range(1, 21), 26, 28, 29, 30, 32, *range(34, 40)}
WORDS = {
    ("foreign-pod", "local"): "lost",
    ("foreign-pod", "shared"): "ok",
    ("timeout-overwrites-completion", "local"): "ok",
    ("timeout-overwrites-completion", "shared"): "lost",
    ("crash-between-status-and-push", "shared"): "leaked",
    ("crash-before-send", "shared"): "ok",
    ("stale-local-copy", "shared"): "misreported",
    ("poison-message", "shared"): "stuck",
    ("push-applied-twice", "shared"): "duplicated",
    ("pod-killed-mid-upload", "shared"): "lost, stuck",
    ("foreign-status", "local"): "misreported",
    ("two-absorbers", "shared"): "ok",
    ("same-id-twice", "shared"): "duplicated",
    ("two-users", "local"): "ok",
    ("subscriber-dropped", "shared"): "–",
    ("foreign-unlock", "durable"): "–",
}

NEEDS_TWO = {"foreign-unlock"}
"""Rows that are violated with two preemptions, not with one."""


def test_names_are_unique_and_the_rows_are_there() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {scenario.row for scenario in SCENARIOS} == ROWS
    assert [scenario.row for scenario in SCENARIOS] == sorted(scenario.row for scenario in SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_catalogue_entry_is_complete(scenario: Scenario) -> None:
    assert scenario.what
    assert isinstance(scenario.workload, Uploads)
    assert not scenario.violates & scenario.spares
    assert scenario.violates <= {"local", "shared"}
    assert scenario.spares <= {"shared", "durable"}
    assert scenario.faults or not scenario.spares


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


def test_two_calls_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two calls are named 'one'"):
        Scenario("twice", {"A": [Call("one", "get")], "B": [Call("one", "get")]})


@pytest.mark.parametrize(
    "call",
    [Call("one", "get", after=("two",)), Call("one", "get", (Ref("two"),)), Call("one", "get", ([Ref("two", 0)],))],
    ids=["after", "a reference", "a reference in a list"],
)
def test_a_call_that_is_not_there_is_refused(call: Call) -> None:
    with pytest.raises(UsageError, match="scenario odd, call one: there is no call 'two'"):
        Scenario("odd", {"A": [call]})


def test_the_pods_of_a_scenario_are_those_of_its_lines() -> None:
    lines = {"A": [Call("one", "get")], "B": [], "A.reader": [Call("two", "get")]}
    assert Scenario("pods", lines).pods == ("A", "B")


def test_a_finding_has_one_of_the_five_words() -> None:
    with pytest.raises(TargetError, match="expected one of lost, duplicated, misreported, stuck, leaked"):
        Finding("broken", "m1", "m1 is broken")


def test_an_upload_scenario_is_prepared_with_one_picture_an_image(tmp_path: Path) -> None:
    scenario = Scenario("images", {"A": [add("m1", ["one", "two"]), add("m2", ["one"])]}, workload=UPLOADS)
    prepared: Any = scenario.workload.prepare(scenario, tmp_path)
    assert set(prepared.files) == {"one", "two"}
    assert {prepared.identify(path.read_bytes()): name for name, path in prepared.files.items()} == {
        "one": "one",
        "two": "two",
    }
    assert prepared.identify(b"something else") is None
    assert Workload().prepare(scenario, tmp_path) == Workload()


@pytest.mark.parametrize(("scenario", "target"), CELLS, ids=[f"{s.name}-{t}" for s, t in CELLS])
def test_every_cell_is_as_expected_and_its_counterexample_replays(
    run_server: Server, tmp_path: Path, scenario: Scenario, target: str
) -> None:
    """With the same words and the same steps in this process and on processes of their own."""
    named = named_target(target)
    assert (named.name, named.path) == (target, f"podrace.reference.targets:{target}")
    expected = scenario.expected(target)
    few = 1 if target == "durable" else 2
    preemptions = 1 if expected == VIOLATED and scenario.name not in NEEDS_TWO else few
    bounds = Bounds(preemptions=int(os.environ.get("PODRACE_PREEMPTIONS", preemptions)), budget_s=600)
    cell = explore_cell(run_server, named, scenario, bounds, seed=7, folder=tmp_path)
    assert (cell.verdict, cell.expected, cell.is_expected) == (expected, expected, True), cell.note
    assert cell.words == WORDS.get((scenario.name, target), cell.words)
    assert (cell.counterexample is not None) == (cell.verdict == "violated")
    if cell.counterexample:
        for fleet in ("inline", "processes"):
            assert_replays(run_server, named, scenario, Path(cell.counterexample), fleet)


def assert_replays(server: Server, target: NamedTarget, scenario: Scenario, file: Path, fleet: str) -> None:
    saved = load(file)
    history = file.with_name(file.name.replace(".podrace.json", ".history.jsonl"))
    before = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    with lab_for(fleet, server, target, scenario, seed=7) as lab:
        again = replay(lab, saved)
    assert (again.judgement.verdict, again.judgement.words) == (saved.verdict, saved.words)
    assert again.sentence == saved.sentence
    assert steps_of(again.events) == steps_of(before)
    assert ends_of(again.events) == ends_of(before)


def steps_of(events: Any) -> list[Any]:
    """Who did what with which action; replies are left out, as the URIs of files in them differ."""
    return [
        (event["actor"], event["kind"], event["action"], event["what"].split(" ")[0])
        for event in events
        if event["type"] == "step"
    ]


def ends_of(events: Any) -> list[Any]:
    return [(event["call"], event["type"]) for event in events if "call" in event]
