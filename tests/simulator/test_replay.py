"""A counterexample runs again, step by step, in this process and on real ones, and damaged files say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import SavedSchedule, load, save
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.history.events import Event
from podrace.simulator.scenarios.catalogue import SCENARIOS, find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

PARTS = {"memory": "podrace.reference.memory:MemoryLedger", "gemini": "podrace.reference.gemini:GeminiFiles"}
VIOLATED = [(scenario.name, target) for scenario in SCENARIOS for target in sorted(scenario.violates)]
ON_PROCESSES = (
    ("timeout-overwrites-completion", "shared"),  # an early timer
    ("crash-after-send", "shared"),  # a kill
    ("paused-pod", "shared"),  # a pause
    ("push-applied-twice", "shared"),  # a dropped reply, and the client's own retry
    ("expired-before-absorbed", "shared"),  # a key that expires
    ("foreign-pod", "local"),
)

Find = Callable[[str, str], tuple[SavedSchedule, list[Event]]]


def named(target: str) -> NamedTarget:
    return NamedTarget(target, f"podrace.reference.targets:{target}")


@pytest.fixture
def found(run_server: Server, tmp_path: Path) -> Find:
    def find_one(scenario: str, target: str) -> tuple[SavedSchedule, list[Event]]:
        bounds = Bounds(preemptions=2 if scenario == "foreign-unlock" else 1)
        cell = explore_cell(run_server, named(target), find(scenario), bounds, seed=7, folder=tmp_path)
        path = Path(str(cell.counterexample))
        history = path.parent / f"{target}-{scenario}.history.jsonl"
        return load(path), [json.loads(line) for line in history.read_text().splitlines()]

    return find_one


def steps_of(events: Any) -> list[Any]:
    return [
        (event["actor"], event["kind"], event["action"], event["what"].split(" ")[0])
        for event in events
        if event["type"] == "step"
    ]


@pytest.mark.parametrize(("scenario", "target"), VIOLATED, ids=[f"{s}-{t}" for s, t in VIOLATED])
def test_every_counterexample_replays_inline(run_server: Server, found: Find, scenario: str, target: str) -> None:
    saved, history = found(scenario, target)
    with lab_for("inline", run_server, named(target), find(scenario), seed=7, parts={}) as lab:
        again = replay(lab, saved)
    assert ", ".join(again.judgement.kinds) == saved.words
    assert (again.judgement.verdict, again.sentence) == (saved.verdict, saved.sentence)
    assert steps_of(again.events) == steps_of(history)


@pytest.mark.parametrize(("scenario", "target"), ON_PROCESSES, ids=[s for s, _ in ON_PROCESSES])
def test_a_counterexample_replays_on_processes(run_server: Server, found: Find, scenario: str, target: str) -> None:
    saved, history = found(scenario, target)
    with lab_for("processes", run_server, named(target), find(scenario), seed=7, parts=PARTS) as lab:
        again = replay(lab, saved)
    assert ", ".join(again.judgement.kinds) == saved.words
    assert again.judgement.verdict == saved.verdict
    assert steps_of(again.events) == steps_of(history)
    calls = [event["type"] for event in again.events if "call" in event]
    assert calls == [event["type"] for event in history if "call" in event]


@pytest.mark.parametrize("fleet", ["inline", "processes"])
def test_a_schedule_that_does_not_fit_the_target_is_no_verdict(run_server: Server, found: Find, fleet: str) -> None:
    saved, _ = found("timeout-overwrites-completion", "shared")
    foreign = replace(saved, decisions=(*saved.decisions[:2], ("Q", "go"), *saved.decisions[2:]))
    with (
        lab_for(fleet, run_server, named("shared"), find(saved.scenario), seed=7, parts=PARTS) as lab,
        pytest.raises(TargetError, match="step 3: Q is not where the schedule has it"),
    ):
        replay(lab, foreign)


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
    decisions=(("A", "go"), ("B", "kill")),
)


def test_a_schedule_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.podrace.json"
    save(path, SAVED)
    assert load(path) == SAVED


DAMAGED = {
    "empty": "",
    "cut": '{"version": 1, "target',
    "no object": "[]",
    "another version": '{"version": 2}',
    "foreign": '{"name": "podrace"}',
    "fields missing": '{"version": 1}',
    "no pairs": '{"version": 1, "decisions": [["A"]]}',
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
    [("seed", "7"), ("seed", -1), ("retries", None), ("decisions", 5), ("decisions", None), ("faults", 1.5)],
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
