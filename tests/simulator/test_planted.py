"""Each check catches its planted bug, and none reports anything for a correct target."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podrace import Call, Finding, Run, Scenario
from podrace.simulator.app.campaign import explore_cell
from podrace.simulator.app.names import PARTS, NamedTarget
from podrace.simulator.app.runs import Cell
from podrace.simulator.scenarios.catalogue import SCENARIOS, find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

pytestmark = pytest.mark.wide

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
    ("NotInTheContract", "foreign-status", "misreported"),
    ("CompletedWithoutAFile", "foreign-status", "misreported"),
    ("CompletedBeforeUploaded", "foreign-status", "misreported"),
    ("NamesEverything", "foreign-pod", "lost"),
    ("NamesTheMessage", "two-absorbers", "lost"),
    ("SendsWhatIsNotReady", "unready-gemini-file", "lost"),
    ("SendsWhatIsNotReady", "failed-gemini-file", "lost"),
    ("SendsWhatIsNotReady", "foreign-gemini-file", "lost"),
    ("NewestFirst", "two-absorbers", "misreported"),
    ("OneQueue", "two-users", "misreported"),
    ("TwoLocks", "cleanup-while-resolving", "stuck"),
    ("Waits", "foreign-pod", "stuck"),
    ("PollsAsleep", "foreign-pod", "stuck"),
    ("AcceptsInTwoSteps", "accept-unanswered", "lost"),
)
NOTHING_TO_STRIKE = {
    "timeout-overwrites-completion": "no upload is under way once a message is accepted",
    "stale-local-copy": "nothing of a status is in Redis",
    "trim-applied-twice": "it sends no LTRIM",
    "foreign-unlock": "it sends no LTRIM",
    "subscriber-dropped": "it subscribes to nothing",
}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def explore(server: Server, target: str, scenario: str, folder: Path, **more: Any) -> Cell:
    named, row = NamedTarget(target, target), find(scenario)
    more = {"on_processes": False, **more}
    return explore_cell(server, named, row, Bounds(preemptions=1), seed=7, folder=folder, **more)


def test_the_list_of_planted_bugs_names_every_one() -> None:
    broken = importlib.import_module("planted.broken")
    planted = {name for name, value in vars(broken).items() if getattr(value, "__module__", "") == broken.__name__}
    assert {name for name, _, _ in PLANTED} == planted


@pytest.mark.parametrize(("bug", "scenario", "word"), PLANTED, ids=[f"{bug}-{row}" for bug, row, _ in PLANTED])
def test_a_planted_bug_is_caught(run_server: Server, tmp_path: Path, bug: str, scenario: str, word: str) -> None:
    cell = explore(run_server, f"planted.broken:{bug}", scenario, tmp_path)
    assert (cell.verdict, word in cell.words.split(", ")) == ("violated", True), (cell.words, cell.note)
    assert Path(str(cell.counterexample)).exists()
    assert cell.sentence.endswith(".")
    assert cell.sentence in (tmp_path / f"planted.broken.{bug}-{scenario}.txt").read_text()


CANNOT_HOLD = ("expired-gemini-file", "corrupt-value")
ROWS = [scenario.name for scenario in SCENARIOS if scenario.name not in CANNOT_HOLD]


@pytest.mark.parametrize("scenario", ROWS)
def test_nothing_is_reported_for_a_correct_target(run_server: Server, tmp_path: Path, scenario: str) -> None:
    cell = explore(run_server, "planted.correct:correct", scenario, tmp_path)
    verdict = "not-applicable" if scenario in NOTHING_TO_STRIKE else "holds"
    assert (cell.verdict, cell.counterexample) == (verdict, None), (cell.words, cell.note)
    assert cell.schedules["complete"]


def test_a_target_that_does_not_say_how_long_a_file_lives_sends_it_too_late(run_server: Server, tmp_path: Path) -> None:
    """48 hours pass between its check of the file and `send`; without `usable_until` no agent can refuse it."""
    cell = explore(run_server, "planted.correct:correct", "expired-gemini-file", tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "lost")
    history = (tmp_path / "planted.correct.correct-expired-gemini-file.txt").read_text()
    looked, passed, sent = (history.index(word) for word in ("gemini.get", "time passes", "send to alice"))
    assert looked < passed < sent


def test_a_damaged_place_in_the_queue_strands_its_message(run_server: Server, tmp_path: Path) -> None:
    """This design violates this row: the queue is a sorted set of ids, and half an id names no message."""
    cell = explore(run_server, "planted.correct:correct", "corrupt-value", tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "stuck")
    assert "damages queue:" in (tmp_path / "planted.correct.correct-corrupt-value.history.jsonl").read_text()


def test_a_target_that_holds_was_run_on_processes_too(
    run_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "gemini", "planted.correct:Files")
    cell = explore(run_server, "planted.correct:correct", "unready-gemini-file", tmp_path, on_processes=True)
    assert (cell.verdict, cell.note) == ("holds", "")


def test_a_target_that_holds_only_inline_is_inconclusive(run_server: Server, tmp_path: Path) -> None:
    cell = explore(run_server, "planted.unfit:MainThreadAlone", "crash-before-send", tmp_path, on_processes=True)
    assert cell.verdict == "inconclusive"
    assert cell.note.startswith("it holds in one process, but on processes of its own: message m1 ")


def test_a_target_that_is_violated_only_inline_is_inconclusive(run_server: Server, tmp_path: Path) -> None:
    def greeted_by_name(run: Run) -> Iterator[Finding]:
        for call in run.calls:
            if call.type == "ok" and call.value != call.name:
                yield Finding("misreported", call.name, f"{call.name} is greeted as {call.value}")

    lines = {f"A.{name}": [Call(name, "greet", (name,))] for name in ("ann", "bob")}
    named = Scenario("greeted", lines, checks=[greeted_by_name])
    target = NamedTarget("planted.unfit:ByThread", "planted.unfit:ByThread")
    cell = explore_cell(run_server, target, named, Bounds(), seed=7, folder=tmp_path)
    assert cell.verdict == "inconclusive"
    assert cell.note == "it is violated in one process (misreported), but on processes of its own: ok"


def test_a_target_whose_calls_end_otherwise_on_processes_is_inconclusive(run_server: Server, tmp_path: Path) -> None:
    """No check says anything of it: it holds in both, but not of the same thing."""
    named = Scenario("greeted", {"A": [Call("ann", "greet", ("ann",))]})
    target = NamedTarget("planted.unfit:OneProcess", "planted.unfit:OneProcess")
    cell = explore_cell(run_server, target, named, Bounds(), seed=7, folder=tmp_path)
    assert cell.verdict == "inconclusive"
    assert cell.note.startswith("it holds in one process, but on processes of its own the call ann ended as `fail`: ")
    assert cell.note.endswith("ValueError: not in a child")


def test_scripts_called_by_hash_behave_the_same_in_every_run(run_server: Server, tmp_path: Path) -> None:
    """A server that remembers a script from one schedule to the next would make them differ."""
    cell = explore(run_server, "planted.correct:Registered", "foreign-pod", tmp_path)
    assert (cell.verdict, cell.note) == ("holds", "")
