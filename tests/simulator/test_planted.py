"""Each check catches its planted bug, and none speaks up against a target that is correct."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell
from podrace.simulator.app.runs import Cell
from podrace.simulator.scenarios.catalogue import SCENARIOS, find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

PLANTED = (
    ("PopBeforeDelivery", "crash-before-send", "lost"),
    ("AcceptInMemory", "pod-killed-mid-upload", "lost"),
    ("CleanUpBeforeSend", "crash-before-send", "lost"),
    ("PushWithoutId", "push-applied-twice", "duplicated"),
    ("SendWithoutId", "crash-after-send", "duplicated"),
    ("UnlockWithoutOwnership", "lock-expires-mid-send", "duplicated"),
    ("NoLease", "crash-before-send", "stuck"),
    ("AckByPosition", "lock-expires-mid-send", "lost"),
    ("SwallowedError", "connection-dropped", "lost"),
    ("WrongUser", "hostile-ids", "misreported"),
    ("Leaks", "push-applied-twice", "leaked"),
    ("SkipsFailedImages", "gemini-refuses", "lost"),
    ("PoisonStops", "poison-message", "stuck"),
    ("ForgetsStatus", "cleanup-while-resolving", "misreported"),
    ("StatusGoesBack", "stale-local-copy", "misreported"),
    ("CompletedBeforeUploaded", "foreign-pod", "lost"),
    ("AcceptsInTwoSteps", "accept-unanswered", "lost"),
)


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def explore(server: Server, target: str, scenario: str, folder: Path, **bounds: Any) -> Cell:
    named = NamedTarget(target, target)
    return explore_cell(server, named, find(scenario), Bounds(**bounds), seed=7, folder=folder)


def test_the_list_of_planted_bugs_names_every_one() -> None:
    broken = importlib.import_module("planted.broken")
    planted = {name for name in vars(broken) if getattr(broken, name).__class__ is type}
    assert {name for name, _, _ in PLANTED} == planted - {"Correct", "Any", "Path", "PodEnv", "Sequence"}


@pytest.mark.parametrize(("bug", "scenario", "word"), PLANTED, ids=[bug for bug, _, _ in PLANTED])
def test_a_planted_bug_is_caught(run_server: Server, tmp_path: Path, bug: str, scenario: str, word: str) -> None:
    cell = explore(run_server, f"planted.broken:{bug}", scenario, tmp_path, preemptions=1)
    assert (cell.verdict, word in cell.words.split(", ")) == ("violated", True), (cell.words, cell.note)
    assert Path(str(cell.counterexample)).exists()
    assert (tmp_path / f"planted.broken.{bug}-{scenario}.txt").read_text().rstrip().endswith(".")


@pytest.mark.parametrize("scenario", [scenario.name for scenario in SCENARIOS])
def test_a_correct_target_is_left_alone(run_server: Server, tmp_path: Path, scenario: str) -> None:
    cell = explore(run_server, "planted.correct:correct", scenario, tmp_path, preemptions=1)
    assert (cell.verdict, cell.counterexample) == ("holds", None), (cell.words, cell.note)
    assert cell.schedules["complete"]


def test_scripts_by_their_hash_are_the_same_in_every_run(run_server: Server, tmp_path: Path) -> None:
    """A server that remembers a script from one schedule to the next would make them differ."""
    cell = explore(run_server, "planted.correct:registered", "foreign-pod", tmp_path, preemptions=1)
    assert (cell.verdict, cell.note) == ("holds", "")
