"""A run that begins as an earlier one did is told what that has found out: it goes the way that it would go without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from podrace.simulator.app.names import named_target
from podrace.simulator.errors import AnotherWayError
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.scenarios.faults import Kill, LoseConnection, TimePasses
from podrace.simulator.scenarios.model import Call, Scenario
from podrace.simulator.search import record
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds, Branch, Course, until_it_leaves
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.schedule import Decision, Known, take_default
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world.footprints import Footprint
from podrace.simulator.world.steps import GO, Step

ROWS = (
    "corrupt-value",
    "foreign-unlock",
    "late-completion",
    "lock-expires-mid-send",
    "restarted-pod",
    "subscriber-dropped",
    "two-users",
)


def searched(lab: InlineLab, bounds: Bounds) -> tuple[list[Any], Exploration]:
    """All that each run of a search has brought, and the search's result."""
    runs: list[Any] = []

    class Recorded(record.Recorder):
        def record(self, *args: Any, **named: Any) -> record.Record | None:
            found = super().record(*args, **named)
            if found is not None:
                course = found.course.decisions, found.course.taken
                runs.append((course, found.places, found.ends, found.judged, found.events, found.deciding))
            return found

    explorer = Explorer(lab.scenario, lab.play, lab.finish, bounds)
    explorer._recorder = Recorded(lab.scenario, lab.play, lab.finish, bounds)
    return runs, explorer.explore()


def without_what_is_known(branch: Branch) -> Course:
    return until_it_leaves(branch)._replace(known=())


def sent(server: Server) -> int:
    client = connect(server.url)
    try:
        return int(client.info("stats")["total_commands_processed"])
    finally:
        client.close()


def compared(
    monkeypatch: pytest.MonkeyPatch, server: Server, target: str, scenario: Scenario, bounds: Bounds
) -> tuple[int, int]:
    """Checks that a search goes the same way with and without what is known. Returns how many commands each sent."""
    with InlineLab(server, target, scenario, seed=7) as lab:
        searched(lab, bounds)  # learns the target's scripts, on which footprints rest
        before = sent(server)
        told, found = searched(lab, bounds)
        between = sent(server)
        monkeypatch.setattr(record, "until_it_leaves", without_what_is_known)
        untold, again = searched(lab, bounds)
        after = sent(server)
    assert len(told) > 1
    for one, other in zip(told, untold, strict=True):
        assert one == other
    assert (found.verdict, found.run, found.pruned, found.outcomes) == (
        again.verdict,
        again.run,
        again.pruned,
        again.outcomes,
    )
    return between - before, after - between


@pytest.mark.parametrize("row", ROWS)
def test_a_run_that_is_told_goes_the_same_way(run_server: Server, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    bounds = Bounds(preemptions=1, budget_s=600)
    commands, without = compared(monkeypatch, run_server, named_target("shared").path, find(row), bounds)
    assert row != "corrupt-value" or commands < without  # many faults leave one run


@pytest.mark.parametrize("reduce", [True, False])
def test_it_does_so_for_transactions_scripts_streams_and_lives(
    run_server: Server, monkeypatch: pytest.MonkeyPatch, reduce: bool
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    first = (
        ("SETEX", "k", 5, "1"),
        ("SCRIPT", "return redis.call('INCR', KEYS[1])", "k"),
        ("SPAWN", (("RPUSH", "l", "x"), ("PTTL", "k"))),
        ("CAS", "n", "n"),
    )
    second = (("LOCKED", "k", "7"), ("SLEEP", 6), ("XADD", "s", "*", "f", "v"))
    lines = {"A": [Call("a", "run", (first,))], "B": [Call("b", "run", (second,))]}
    faults = (TimePasses(), Kill(), LoseConnection(pods=frozenset("B")))
    scenario = Scenario("told", lines, faults, checks=[lambda run: []], keeps=["*"])
    compared(monkeypatch, run_server, "planted.programs:Runner", scenario, Bounds(0, 1, budget_s=600, reduce=reduce))


@pytest.mark.parametrize("mark", [("MULTI",), ("WATCH", "k"), ("SELECT", 1)])
def test_what_depends_on_the_connection_is_sent_on_it(
    run_server: Server, monkeypatch: pytest.MonkeyPatch, mark: tuple[Any, ...]
) -> None:
    """A reply to MULTI's SET is known, and still SET must be sent where MULTI was."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    end = {"MULTI": "EXEC", "WATCH": "UNWATCH", "SELECT": "PING"}[mark[0]]
    first = (("RAW", *mark), ("SET", "k", "1"), ("SET", "m", "2"), ("RAW", end), ("GET", "k"))
    lines = {"A": [Call("a", "run", (first,))], "B": [Call("b", "run", ((("SET", "k", "3"), ("GET", "m")),))]}
    scenario = Scenario("marked", lines, (Kill(),), checks=[lambda run: []], keeps=["*"])
    compared(monkeypatch, run_server, "planted.programs:Runner", scenario, Bounds(2, 1, budget_s=600))


@pytest.mark.parametrize("second", ["a", "b"])
def test_a_step_that_cannot_be_taken_now_is_another_way(
    run_server: Server, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """The target is to blame: the call that it begins next is still under way, or is not there at all."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    scenario = Scenario("once", {"A": [Call("a", "run", ((("GET", "k"),),))]}, checks=[lambda run: []])
    with InlineLab(run_server, "planted.programs:Runner", scenario, seed=7) as lab:
        play = lab.play(0)
        begins = Known(True, Footprint(), 1, False, False, None)
        steps = tuple(Step("A", "call", (name,)) for name in ("a", second))
        play.begins_as = Course((Decision("A", GO),) * 2, steps, (begins, begins))
        with pytest.raises(AnotherWayError, match="at step 2: expected Step"):
            play.run(take_default)
        lab.finish(play)


@pytest.fixture
def probe(server: EmbeddedServer, redis_client: redis.Redis) -> Iterator[Probe]:
    probe = Probe(redis_client, own=True)
    yield probe
    probe.clear([], scripts=False)
    probe.close()


def test_what_is_owed_is_sent_before_anything_is_asked(probe: Probe) -> None:
    probe.owe(("SET", "k", "1"), b"OK")
    probe.owe(("INCR", "k"), 2)
    assert probe.ask(("GET", "k")) == [b"2"]


def test_a_server_that_answers_what_is_owed_in_another_way_is_noticed(probe: Probe) -> None:
    probe.ask(("SET", "k", "5"))
    probe.owe(("INCR", "k"), 2)
    with pytest.raises(AnotherWayError, match="INCR was answered once 2, once 6"):
        probe.ask(("GET", "k"))


def test_a_run_that_is_stopped_sends_nothing_that_it_owes(probe: Probe) -> None:
    probe.owe(("SET", "k", "1"), b"OK")
    probe.clear([], scripts=False)
    assert probe.ask(("EXISTS", "k")) == [0]
