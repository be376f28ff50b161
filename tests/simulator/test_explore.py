"""Exploring targets that cannot be judged, and that the same seed gives the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import podrace
from podrace.simulator.app.campaign import explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.names import NamedTarget, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.fleets import watchdog
from podrace.simulator.history.events import write_history
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.scenarios.faults import Kill, TimePasses
from podrace.simulator.scenarios.model import Call, Scenario, Workload
from podrace.simulator.scenarios.uploads import UPLOADS, add
from podrace.simulator.search.explorer import Exploration, Explorer, Restart
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.play import Play
from podrace.simulator.servers.connection import Server

SHARED = named_target("shared")
ROW = "timeout-overwrites-completion"
SECONDS = 1.0


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(watchdog, "STEP_WITHIN_S", SECONDS)


def explore_row(server: Server, target: NamedTarget, row: str, bounds: Bounds, folder: Path, seed: int = 7) -> Cell:
    named = find(row)
    return explore_cell(server, target, named, bounds, seed=seed, folder=folder, on_processes=False)


@pytest.fixture
def explore(run_server: Server, tmp_path: Path) -> Callable[..., Cell]:
    def explore_one(target: str, scenario: str, bounds: Bounds | None = None) -> Cell:
        named = NamedTarget(target, f"planted.unfit:{target}")
        return explore_row(run_server, named, scenario, bounds or Bounds(preemptions=1, budget_s=10.0), tmp_path)

    return explore_one


def search(server: Server, target: str, scenario: Scenario, bounds: Bounds) -> Exploration:
    with InlineLab(server, target, scenario, seed=7) as lab:
        return Explorer(lab.scenario, lab.play, lab.finish, bounds).explore()


class _Interrupted:
    """A run in the middle of which Ctrl-C comes."""

    ends: object = None
    side = SimpleNamespace(table=SimpleNamespace(texts={}))

    def run(self, choose: object) -> NoReturn:
        raise Interrupted(signal.SIGINT)


def test_a_search_that_is_interrupted_does_not_begin_again() -> None:
    def finish(play: Play) -> None:
        raise Restart

    runs: list[Any] = [_Interrupted()]
    explorer = Explorer(find("foreign-pod"), lambda retries: runs.pop(), finish, Bounds())
    with pytest.raises(Interrupted):
        explorer.explore()


UNFIT = (
    ("OwnRandomness", "foreign-pod", "draws at random"),
    ("AnotherWayAfterAFault", "accept-unanswered", "not deterministic"),
    ("WallClock", "foreign-pod", "not deterministic"),
    ("OwnThread", "foreign-pod", "a thread of its own"),
    ("OwnThreadJoined", "foreign-pod", "a thread of its own"),
    ("Spawner", "foreign-pod", "a thread of its own"),
    ("Blocks", "foreign-pod", "did not come back within 1 s"),
    ("Spins", "foreign-pod", "did not come back within 1 s"),
    ("SpinsAndSwallowsAll", "foreign-pod", "did not come back within 1 s"),
    ("Polls", "foreign-pod", "did not finish within 3000 steps"),
    ("SwallowsAll", "foreign-pod", "did not finish within 3000 steps"),
    ("RaisesEverywhere", "foreign-pod", "no call succeeds in any schedule"),
    ("raising", "foreign-pod", "factory raised RuntimeError: no settings"),
    ("no_pod", "foreign-pod", "expected it to return a pod"),
    ("leaving", "foreign-pod", "raised SystemExit"),
    ("LeavesACall", "foreign-pod", "raised SystemExit"),
    ("LeavesASpawnedActor", "foreign-pod", "raised SystemExit"),
    ("AsksTheServersClock", "foreign-pod", "asks the server for TIME"),
    ("NoAbsorb", "foreign-pod", "has no method absorb"),
    ("Coroutine", "foreign-pod", "absorb is a coroutine function"),
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # about SystemExit in a thread
def test_what_blocks_a_step_is_looked_for_once_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unblock() -> str:
        asked.append("asked")
        threading.Event().wait(0.5)
        return "a script keeps the server busy"

    monkeypatch.setattr(watchdog, "STEP_WITHIN_S", 0.1)
    with pytest.raises(TargetError, match=r"within 0\.1 s.*: a script keeps the server busy"):  # noqa: SIM117
        with watchdog.watchdog(lambda: "no step", unblock=unblock):
            threading.Event().wait(10)
    assert asked == ["asked"]


@pytest.mark.parametrize(("target", "scenario", "why"), UNFIT, ids=[target for target, _, _ in UNFIT])
def test_a_target_that_cannot_be_judged_gets_one_clear_error(
    explore: Callable[..., Cell], target: str, scenario: str, why: str
) -> None:
    cell = explore(target, scenario)
    assert (cell.verdict, cell.words) == ("inconclusive", "inconclusive")
    assert why in cell.note
    assert "\n" not in cell.note


@pytest.mark.parametrize("target", ["Locks", "SwallowsAWhile"])
@pytest.mark.parametrize("scenario", ["crash-before-send", "foreign-pod", "late-completion"])
def test_an_unusual_but_correct_target_is_judged(explore: Callable[..., Cell], target: str, scenario: str) -> None:
    """A lock that one actor holds while another waits; an actor that treats its end as an error of Redis."""
    cell = explore(target, scenario)
    assert (cell.verdict, cell.note) == ("holds", "")


def test_a_module_that_would_end_the_process_is_a_wrong_target(run_server: Server, tmp_path: Path) -> None:
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(0)")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(UsageError, match="cannot import leaves_at_import: it raised SystemExit: 0"):
            InlineLab(run_server, "leaves_at_import:pod", find("foreign-pod"), seed=7)
    finally:
        sys.path.remove(str(tmp_path))


def test_a_spent_budget_is_inconclusive(explore: Callable[..., Cell]) -> None:
    cell = explore("Locks", "paused-pod", Bounds(preemptions=8, faults=2, budget_s=0.01))
    assert cell.verdict == "inconclusive"
    assert not cell.schedules["complete"]
    assert "budget" in cell.note


def test_a_fault_with_nothing_to_strike_does_not_count_as_a_pass(run_server: Server, tmp_path: Path) -> None:
    cell = explore_row(run_server, SHARED, "subscriber-dropped", Bounds(preemptions=0), tmp_path)
    assert (cell.verdict, cell.words, cell.expected) == ("not-applicable", "–", "not-applicable")
    assert cell.note == "the faults of this scenario have nothing to strike in this target"


def test_a_violation_is_reported_although_the_fault_could_not_strike(run_server: Server) -> None:
    """The pod returns a status outside the contract in every schedule, with any fault or none."""
    scenario = find("stale-local-copy")
    found = search(run_server, "planted.broken:NotInTheContract", scenario, Bounds(preemptions=0, faults=0))
    assert found.words == "misreported"


def test_a_run_finds_nothing_that_the_run_before_left(run_server: Server) -> None:
    with InlineLab(run_server, SHARED.path, find("foreign-pod"), seed=7) as lab:
        Explorer(lab.scenario, lab.play, lab.finish, Bounds(preemptions=1)).explore()
        assert lab.probe.under(run_server.prefix) == []


def test_only_our_own_server_is_waited_for_without_end(run_server: Server) -> None:
    """If a foreign server hangs, the target is not to blame, but the watchdog would blame the target."""
    for server, patience_s in ((run_server, None), (replace(run_server, embedded=None), 5.0)):
        with InlineLab(server, SHARED.path, find("foreign-pod"), seed=7) as lab:
            clients = (lab.probe._client, lab._client("A", 0))
            assert {client.connection_pool.connection_kwargs["socket_timeout"] for client in clients} == {patience_s}


def test_the_first_counterexample_is_a_smallest(run_server: Server) -> None:
    """No schedule with fewer preemptions, or without the fault, violates it."""
    found = search(run_server, SHARED.path, find(ROW), Bounds())
    best = found.counterexample
    assert best is not None
    assert found.words == "lost"
    assert (best.faults, best.preemptions) == (1, 1)
    for fewer in (Bounds(preemptions=0, faults=1), Bounds(preemptions=2, faults=0)):
        less = search(run_server, SHARED.path, find(ROW), fewer)
        assert (less.counterexample, less.complete) == (None, True)


def test_a_pod_may_die_after_its_last_step(run_server: Server) -> None:
    scenario = Scenario("late", {"A": (add("m1"),)}, faults=(Kill(),), workload=UPLOADS)
    found = search(run_server, "planted.broken:AcceptInMemory", scenario, Bounds())
    assert found.words == "lost"
    assert found.counterexample is not None
    assert found.counterexample.decisions[-1] == ("A", "kill")


def test_timers_that_are_due_at_once_fire_in_any_order(run_server: Server) -> None:
    lines = {pod: (Call(f"sleep-{pod}", "sleep", (1,)),) for pod in "AB"}
    scenario = Scenario("due", lines, workload=Workload())
    first = set()
    with InlineLab(run_server, "planted.small:Keys", scenario, seed=7) as lab:

        def finish(play: Play) -> None:
            first.update([event["actor"] for event in play.events if event["type"] == "step"][:1])
            lab.finish(play)

        Explorer(lab.scenario, lab.play, finish, Bounds(preemptions=0, faults=0)).explore()
    assert first == {"A", "B"}


def test_a_client_may_come_after_a_timer_has_fired(run_server: Server) -> None:
    """By default a call begins before time passes if it can; a client that comes later is tried too."""
    lines = {"A": (Call("put", "put", ("x", 1)), Call("sleep", "sleep", (1,)), Call("again", "put", ("x", 2)))}
    lines["B"] = (Call("get", "get", ("x",), after=("put",)),)
    scenario = Scenario("late", lines, workload=Workload(keeps=["*"]))
    got = set()
    with InlineLab(run_server, "planted.small:Keys", scenario, seed=7) as lab:

        def finish(play: Play) -> None:
            got.update(call.value for call in play.lines.calls if call.name == "get")
            lab.finish(play)

        faults = (TimePasses(),)
        lab.scenario = replace(scenario, faults=faults)
        Explorer(lab.scenario, lab.play, finish, Bounds(preemptions=0, faults=1)).explore()
    assert got == {"1", "2"}


def test_the_default_order_is_run_even_if_all_bounds_are_zero(run_server: Server) -> None:
    scenario = replace(find("foreign-pod"), faults=())
    found = search(run_server, SHARED.path, scenario, Bounds(preemptions=0, faults=0))
    assert found.run >= 1
    assert found.complete


def test_every_setting_of_the_client_is_explored_and_a_search_that_stops_is_not_complete(run_server: Server) -> None:
    """A loss with one setting must not count as an exploration of another that was never run."""
    scenario = replace(find("connection-dropped"), retries=(0, 1))
    with InlineLab(run_server, SHARED.path, scenario, seed=7) as lab:
        runs: Counter[int] = Counter()

        def play(retries: int) -> Play:
            runs[retries] += 1
            return lab.play(retries)

        bounds = Bounds()
        stopped = Explorer(lab.scenario, play, lab.finish, bounds).explore()
        assert stopped.verdict == "violated"
        assert min(runs[0], runs[1]) > 2
        assert not stopped.complete
        whole = Explorer(lab.scenario, lab.play, lab.finish, bounds, worst="none of them").explore()
        assert whole.complete
        assert whole.run > stopped.run


# --- the same seed, the same bytes ---


def test_the_same_seed_gives_the_same_bytes_again_and_again(run_server: Server, tmp_path: Path) -> None:
    found = set()
    for _ in range(5):
        cell = explore_row(run_server, SHARED, ROW, Bounds(), tmp_path)
        found.add((tmp_path / f"shared-{ROW}.history.jsonl").read_bytes())
        found.add(Path(str(cell.counterexample)).read_bytes())
    assert len(found) == 2
    saved = load(Path(str(cell.counterexample)))
    path = tmp_path / "history.jsonl"
    again = set()
    for _ in range(5):
        with lab_for("inline", run_server, SHARED, find(ROW), seed=7) as lab:
            for _ in range(10):
                write_history(path, replay(lab, saved).events)
                again.add(path.read_bytes())
    assert len(again) == 1


def test_another_seed_gives_other_ids(run_server: Server, tmp_path: Path) -> None:
    history = tmp_path / f"shared-{ROW}.history.jsonl"
    explore_row(run_server, SHARED, ROW, Bounds(), tmp_path)
    first = history.read_bytes()
    explore_row(run_server, SHARED, ROW, Bounds(), tmp_path, seed=8)
    assert history.read_bytes() != first


@pytest.mark.parametrize("row", ["crash-after-send", "late-completion"])
def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path, row: str) -> None:
    """Hashes of texts, temporary and working folders differ from process to process; nothing may depend on them."""
    files = []
    for number in ("1", "2"):
        folder, temporary = tmp_path / f"run-{number}", tmp_path / f"t{number * int(number)}"
        working = tmp_path / "below" / f"work-{number}"
        for made in (temporary, working):
            made.mkdir(parents=True)
        code = "from podrace.simulator.app.cli import main; main()"
        options = ["--target", "shared", "--scenario", row, "--seed", "3", "--preemptions", "1"]
        done = subprocess.run(
            [sys.executable, "-c", code, "explore", *options, "--json", "--run-dir", str(folder)],
            env={
                "PYTHONHASHSEED": number,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                "PATH": os.environ["PATH"],
                "TMPDIR": str(temporary),
            },
            cwd=working,
            capture_output=True,
            text=True,
            timeout=60,
        )
        cell = json.loads(done.stdout)["cells"][0]
        names = sorted(path.name for path in folder.iterdir() if path.name != "result.json")
        files.append((cell["schedules"], [(name, (folder / name).read_bytes()) for name in names]))
    assert files[0] == files[1]
    stem = f"shared-{row}"
    assert [name for name, _ in files[0][1]] == [f"{stem}.history.jsonl", f"{stem}.podrace.json", f"{stem}.txt"]


# --- services that are no uploads ---


def no_count_is_lost(run: podrace.Run) -> list[podrace.Finding]:
    done = sum(call.type == "ok" for call in run.calls if call.method == "increment")
    held = int(run.redis.get("n", 0))
    return [podrace.Finding("lost", "n", f"{done} were counted, {held} are held")] if held < done else []


COUNT = podrace.Scenario(
    "count",
    lines={"A": [podrace.Call("a", "increment", ("n",))], "B": [podrace.Call("b", "increment", ("n",))]},
    checks=[no_count_is_lost],
    keeps=["n"],
)


def test_a_service_of_a_users_own_is_explored_from_python(tmp_path: Path) -> None:
    cell = podrace.explore("planted.small:Keys", COUNT, folder=tmp_path)
    assert (cell.verdict, cell.words, cell.scenario) == ("violated", "lost", "count")
    assert cell.sentence.startswith("2 were counted, 1 are held")
    again = podrace.replay(str(cell.counterexample), scenario=COUNT)
    assert (again.judgement.words, again.judgement.findings[0].subject) == ("lost", "n")


def test_one_pod_alone_loses_no_count(tmp_path: Path) -> None:
    lines = {"A": [podrace.Call("a", "increment", ("n",)), podrace.Call("b", "increment", ("n",))]}
    cell = podrace.explore("planted.small:Keys", replace(COUNT, lines=lines), folder=tmp_path)
    assert (cell.verdict, cell.counterexample, cell.note) == ("holds", None, "")


def test_modules_that_an_earlier_search_loaded_change_no_count(tmp_path: Path) -> None:
    """The first search of a process starts again if the target has imported a module late."""
    code = """
from pathlib import Path
from podrace import explore
for _ in range(2):
    print(explore("podrace.reference.targets:durable", "foreign-pod", on_processes=False).schedules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, second = done.stdout.splitlines()
    assert first == second
