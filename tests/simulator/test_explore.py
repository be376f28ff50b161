"""What exploring does with targets that it cannot judge, and that the same seed gives the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.runs import Cell
from podrace.simulator.fleets import inline
from podrace.simulator.history.events import write_history
from podrace.simulator.scenarios.catalogue import Absorb, Add, Scenario, find
from podrace.simulator.scenarios.faults import Kill
from podrace.simulator.search.explorer import Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.play import Play
from podrace.simulator.servers.connection import Server
from podrace.simulator.target import load_target

SHARED = NamedTarget("shared", "podrace.reference.targets:shared")
SECONDS = 1.0


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(inline, "STEP_WITHIN_S", SECONDS)


@pytest.fixture
def explore(run_server: Server, tmp_path: Path) -> Callable[..., Cell]:
    def explore_one(target: str, scenario: str, bounds: Bounds | None = None) -> Cell:
        named = NamedTarget(target, f"planted.unfit:{target}")
        bounds = bounds or Bounds(preemptions=1, budget_s=10.0)
        return explore_cell(run_server, named, find(scenario), bounds, seed=7, folder=tmp_path)

    return explore_one


UNFIT = (
    ("OwnRandomness", "foreign-pod", "not deterministic"),
    ("OwnRandomnessAfterAFault", "accept-unanswered", "not deterministic"),
    ("WallClock", "foreign-pod", "not deterministic"),
    ("OwnThread", "foreign-pod", "a thread of its own"),
    ("OwnThreadJoined", "foreign-pod", "a thread of its own"),
    ("Spawner", "foreign-pod", "a thread of its own"),
    ("Blocks", "foreign-pod", "did not come back"),
    ("Spins", "foreign-pod", "did not come back"),
    ("SpinsAndSwallowsAll", "foreign-pod", "did not come back"),
    ("Polls", "foreign-pod", "takes no end"),
    ("PollsAsleep", "foreign-pod", "takes no end"),
    ("SwallowsAll", "foreign-pod", "takes no end"),
    ("RaisesEverywhere", "foreign-pod", "accepts no message"),
    ("WrongArgument", "foreign-pod", "accepts no message"),
    ("raising", "foreign-pod", "factory raised RuntimeError: no settings"),
    ("no_pod", "foreign-pod", "expected it to return a pod"),
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # SystemExit is none
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
def test_a_target_that_can_be_judged_is(explore: Callable[..., Cell], target: str, scenario: str) -> None:
    """A lock that one actor holds while another waits; an actor that takes its end for an error of Redis."""
    cell = explore(target, scenario)
    assert (cell.verdict, cell.note) == ("holds", "")


def test_a_spent_budget_is_inconclusive(explore: Callable[..., Cell]) -> None:
    cell = explore("Locks", "paused-pod", Bounds(preemptions=8, faults=2, budget_s=0.01))
    assert cell.verdict == "inconclusive"
    assert not cell.schedules["complete"]
    assert "budget" in cell.note


def test_the_next_run_finds_nothing_of_the_one_before(run_server: Server) -> None:
    scenario = find("foreign-pod")
    with InlineLab(run_server, load_target(SHARED.path), scenario, seed=7) as lab:
        Explorer(scenario, lab.play, lab.finish, Bounds(preemptions=1)).explore()
        assert lab.probe.under(run_server.prefix) == []


def test_only_our_own_server_is_waited_for_without_end(run_server: Server) -> None:
    """A foreign one that hangs is not the target's fault, which is all that the watchdog could say."""
    scenario = find("foreign-pod")
    for server, patience_s in ((run_server, None), (replace(run_server, embedded=None), 5.0)):
        with InlineLab(server, load_target(SHARED.path), scenario, seed=7) as lab:
            clients = (lab.probe._client, lab._client("A", 0))
            assert {client.connection_pool.connection_kwargs["socket_timeout"] for client in clients} == {patience_s}


def test_the_first_counterexample_is_a_smallest(run_server: Server) -> None:
    """Nothing violates it with fewer preemptions, or without the fault."""
    scenario = find("timeout-overwrites-completion")
    with InlineLab(run_server, load_target(SHARED.path), scenario, seed=7) as lab:
        found = Explorer(scenario, lab.play, lab.finish, Bounds()).explore()
        best = found.counterexample
        assert best is not None
        assert found.words == "lost"
        assert (best.faults, best.preemptions) == (1, 1)
        for fewer in (Bounds(preemptions=0, faults=1), Bounds(preemptions=2, faults=0)):
            less = Explorer(scenario, lab.play, lab.finish, fewer).explore()
            assert (less.verdict, less.complete) == ("holds", True)


def test_a_pod_may_die_after_its_last_step(run_server: Server) -> None:
    scenario = Scenario("late", 0, {"A": (Add("m1"),)}, "", faults=(Kill(),), needs_fault=True)
    with InlineLab(run_server, load_target("planted.broken:AcceptInMemory"), scenario, seed=7) as lab:
        found = Explorer(scenario, lab.play, lab.finish, Bounds()).explore()
    assert (found.words, found.complete) == ("lost", True)


def test_timers_that_are_due_at_once_fire_in_any_order(run_server: Server) -> None:
    scenario = Scenario("due", 0, {"A": (Absorb("a"),), "B": (Absorb("b"),)}, "")
    first = set()
    with InlineLab(run_server, load_target("planted.unfit:Sleeps"), scenario, seed=7) as lab:

        def finish(play: Play) -> None:
            first.update([event["actor"] for event in play.events if event["type"] == "step"][:1])
            lab.finish(play)

        Explorer(scenario, lab.play, finish, Bounds(preemptions=0, faults=0)).explore()
    assert first == {"A", "B"}


def test_no_bound_of_zero_leaves_the_default_order_out(run_server: Server) -> None:
    scenario = replace(find("foreign-pod"), faults=())
    with InlineLab(run_server, load_target(SHARED.path), scenario, seed=7) as lab:
        found = Explorer(scenario, lab.play, lab.finish, Bounds(preemptions=0, faults=0)).explore()
    assert found.run >= 1
    assert found.complete


def test_the_same_seed_gives_the_same_bytes_a_hundred_times(run_server: Server, tmp_path: Path) -> None:
    scenario = find("timeout-overwrites-completion")
    found = set()
    for _ in range(10):
        cell = explore_cell(run_server, SHARED, scenario, Bounds(), seed=7, folder=tmp_path)
        found.add((tmp_path / "shared-timeout-overwrites-completion.history.jsonl").read_bytes())
        found.add(Path(str(cell.counterexample)).read_bytes())
    assert len(found) == 2
    saved = load(Path(str(cell.counterexample)))
    path = tmp_path / "history.jsonl"
    again = set()
    for _ in range(9):
        with lab_for("inline", run_server, SHARED, scenario, seed=7, parts={}) as lab:
            for _ in range(10):
                write_history(path, replay(lab, saved).events)
                again.add(path.read_bytes())
    assert len(again) == 1


def test_another_seed_gives_other_ids(run_server: Server, tmp_path: Path) -> None:
    scenario = find("timeout-overwrites-completion")
    history = tmp_path / "shared-timeout-overwrites-completion.history.jsonl"
    explore_cell(run_server, SHARED, scenario, Bounds(), seed=7, folder=tmp_path)
    first = history.read_bytes()
    explore_cell(run_server, SHARED, scenario, Bounds(), seed=8, folder=tmp_path)
    assert history.read_bytes() != first


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Hashes of texts differ from process to process; no order may rest on them."""
    files = []
    for number in ("1", "2"):
        folder = tmp_path / number
        command = [sys.executable, "-m", "podrace", "explore", "--scenario", "lock-expires-mid-send", "--seed", "3"]
        code = "from podrace.simulator.app.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command[3:], "--json", "--run-dir", str(folder)],
            env={"PYTHONHASHSEED": number, "PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        cell = json.loads(done.stdout)["cells"][0]
        names = sorted(path.name for path in folder.iterdir() if path.name != "result.json")
        files.append((cell["schedules"], [(name, (folder / name).read_bytes()) for name in names]))
    assert files[0] == files[1]
    assert len(files[0][1]) == 3


def test_every_setting_of_the_client_is_explored_and_a_search_that_stops_is_not_complete(run_server: Server) -> None:
    """What one setting loses must not stand for another that was never run."""
    scenario = replace(find("connection-dropped"), retries=(0, 1))
    with InlineLab(run_server, load_target(SHARED.path), scenario, seed=7) as lab:
        runs: Counter[int] = Counter()

        def play(retries: int) -> Play:
            runs[retries] += 1
            return lab.play(retries)

        stopped = Explorer(scenario, play, lab.finish, Bounds()).explore()
        assert stopped.verdict == "violated"
        assert min(runs[0], runs[1]) > 2
        assert not stopped.complete
        whole = Explorer(scenario, lab.play, lab.finish, Bounds(), worst="none of them").explore()
        assert whole.complete
        assert whole.run > stopped.run
