"""The reduction, which skips equivalent orders, loses no outcome: small programs are explored with and without it.

An outcome is what every call returned, which call ended before which other began, and all keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.judge.run import Run
from podrace.simulator.scenarios.faults import Fault, Kill, LoseConnection, TimePasses
from podrace.simulator.scenarios.model import Call, Scenario, Workload
from podrace.simulator.search.explorer import Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server
from podrace.simulator.world.steps import DROP_REPLY

pytestmark = pytest.mark.wide

Program = tuple[tuple[Any, ...], ...]
Outcomes = set[Any]
NEVER = "no kind of finding: the search goes on to its end"
SUM = "return redis.call('INCRBY', KEYS[1], 2) + (redis.call('GET', KEYS[2]) or 0)"
HIDDEN = "return redis.call('INCR', string.sub(KEYS[1], 1, -2) .. 'y')"
"""Touches a key that it does not declare."""


@dataclass(frozen=True)
class Space:
    """All schedules of some programs, and their outcomes."""

    run: int
    outcomes: Outcomes


Explore = Callable[..., Space]


@pytest.fixture
def explore(run_server: Server, monkeypatch: pytest.MonkeyPatch) -> Explore:
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def explore_one(
        programs: Mapping[str, Program],
        bounds: Bounds,
        *faults: Fault,
        after: Mapping[str, str] = {},
        retries: int = 0,
    ) -> Space:
        outcomes: Outcomes = set()

        def record(run: Run) -> list[Any]:
            outcomes.add(_outcome(run))
            return []

        lines = {
            actor: [Call(actor, "run", (program,), (after[actor],) if actor in after else ())]
            for actor, program in programs.items()
        }
        scenario = Scenario("tiny", lines, faults, Workload(), checks=[record], keeps=["*"], retries=(retries,))
        with InlineLab(run_server, "planted.programs:Runner", scenario, seed=1) as lab:
            found = Explorer(lab.scenario, lab.play, lab.finish, bounds, worst=NEVER).explore()
        assert found.complete
        return Space(found.run, outcomes)

    return explore_one


def _outcome(run: Run) -> Any:
    calls = [(call.name, call.type, str(call.value), call.error) for call in run.calls]
    before = [(one.name, other.name) for one in run.calls for other in run.calls if one.before(other)]
    return tuple(sorted(calls)), tuple(sorted(before)), tuple((one.key, str(one.value), one.left_s) for one in run.left)


def assert_same(explore: Explore, programs: Mapping[str, Program], bounds: Bounds, *faults: Fault, **more: Any) -> None:
    reduced = explore(programs, bounds, *faults, **more)
    whole = explore(programs, replace(bounds, reduce=False), *faults, **more)
    assert reduced.outcomes == whole.outcomes, (
        f"only in all orders: {whole.outcomes - reduced.outcomes}; only reduced: {reduced.outcomes - whole.outcomes}"
    )
    assert reduced.run <= whole.run


GET_X, GET_Y = ("GET", "x"), ("GET", "y")
PROGRAMS: dict[str, dict[str, Program]] = {
    "a lost update": {"A": (GET_X, ("SET", "x", "1")), "B": (GET_X, ("SET", "x", "2"))},
    "what one reads the other writes": {"A": (GET_X, ("APPEND", "y", "<")), "B": (GET_Y, ("APPEND", "x", "<"))},
    "keys apart": {"A": (("INCR", "x"), GET_X), "B": (("INCR", "y"), GET_Y), "C": (("INCR", "z"),)},
    "three writers": {"A": (("APPEND", "x", "a"),), "B": (("APPEND", "x", "b"),), "C": (("APPEND", "x", "c"),)},
    "many keys read at once": {"A": (("SET", "x", "1"), ("SET", "y", "1")), "B": (("MGET", "x", "y"),) * 2},
    "all keys read": {"A": (("SET", "x", "1"), ("SET", "y", "1")), "B": (("KEYS",), ("KEYS",))},
    "a list": {"A": (("RPUSH", "list", "a"), ("LLEN", "list")), "B": (("RPUSH", "list", "b"), ("LPOP", "list"))},
    "a hash": {"A": (("HSET", "h", "f", "1"), ("HGET", "h", "g")), "B": (("HSET", "h", "g", "2"), ("HDEL", "h", "f"))},
    "an error": {"A": (("SET", "x", "text"),), "B": (GET_X, ("INCR", "x"))},
    "a script that declares its keys": {"A": (("EVAL", SUM, "x", "y"), GET_X), "B": (("INCR", "y"), ("INCR", "x"))},
    "a script that does not": {"A": (("EVAL", HIDDEN, "x"), GET_X), "B": (("INCR", "y"), GET_Y)},
    "a script by its hash": {"A": (("SCRIPT", SUM, "x", "y"),), "B": (("SCRIPT", SUM, "y", "x"),)},
    "a transaction that watches": {"A": (("CAS", "x", "y"),), "B": (("INCR", "x"), GET_Y)},
    "an error in a transaction": {"A": (("SET", "y", "text"), ("CAS", "x", "y")), "B": (GET_Y,)},
    "a pipeline without a transaction": {"A": (("PIPE", "x", "y"),), "B": (GET_Y, GET_X)},
    "a reply that is heard late": {
        "A": (GET_X, ("PUT", "m", "<")),
        "A.2": (("SET", "x", "1"), ("PUT", "m", "new"), ("READ", "m")),
    },
    "memory of a pod": {"A": (GET_X, ("PUT", "m", "1"), GET_X), "A.2": (GET_Y, ("READ", "m"), GET_Y)},
    "a lock": {"A": (("LOCKED", "x", "a"),), "A.2": (("LOCKED", "x", "b"),), "B": (GET_X,)},
    "timers": {"A": (("SLEEP", 1), ("APPEND", "x", "a")), "B": (("SLEEP", 1), ("APPEND", "x", "b"))},
    "timers one after the other": {"A": (("SLEEP", 2), GET_X), "B": (("SLEEP", 1), ("SET", "x", "1"), ("NOW",))},
    "a child": {"A": (("SPAWN", (GET_X, ("SET", "y", "1"))), GET_Y), "B": (("SET", "x", "1"), GET_Y)},
    "time read and not read": {"A": (GET_X, ("NOW",), GET_X), "B": (("SETEX", "x", 3, "1"), ("SLEEP", 2), GET_Y)},
    "a key that ends": {"A": (("SETEX", "x", 30, "1"), ("SLEEP", 31), GET_X), "B": (("INCR", "x"),)},
}
FAULTS: dict[str, tuple[Fault, ...]] = {
    "a kill": (Kill(),),
    "a kill of A": (Kill(pods=frozenset("A")),),
    "a restart": (Kill(restart=True),),
    "time passes": (TimePasses(),),
    "a lost connection": (LoseConnection(),),
    "a lost reply": (LoseConnection(actions=(DROP_REPLY,)),),
}
STRUCK = (
    "a lost update",
    "a pipeline without a transaction",
    "a transaction that watches",
    "a script by its hash",
    "timers one after the other",
    "a key that ends",
    "time read and not read",
)


@pytest.mark.parametrize("programs", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_every_order_ends_as_some_order_that_is_run(explore: Explore, programs: dict[str, Program]) -> None:
    for preemptions in (0, 1, 8):
        assert_same(explore, programs, Bounds(preemptions=preemptions, faults=0))


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("name", STRUCK)
def test_every_order_with_one_fault(explore: Explore, name: str, faults: tuple[Fault, ...]) -> None:
    assert_same(explore, PROGRAMS[name], Bounds(preemptions=1, faults=1), *faults)


@pytest.mark.parametrize("name", STRUCK[:3])
def test_every_order_with_two_faults_and_a_client_that_tries_again(explore: Explore, name: str) -> None:
    assert_same(explore, PROGRAMS[name], Bounds(preemptions=0, faults=2), LoseConnection(), retries=1)


def test_calls_that_wait_for_each_other(explore: Explore) -> None:
    lines: dict[str, Program] = {"A": (("SLEEP", 2),), "B": (("SLEEP", 2),), "B.2": (("SLEEP", 1),)}
    assert_same(explore, lines, Bounds(preemptions=1, faults=0), after={"B.2": "A"})


def test_a_lost_update_is_among_the_outcomes(explore: Explore) -> None:
    """Else the comparisons above might compare two empty sets."""
    found = explore(PROGRAMS["a lost update"], Bounds(preemptions=8, faults=0))
    read = {tuple(value for _, _, value, _ in calls) for calls, _, _ in found.outcomes}
    assert {
        ("['nil', 'OK']", "['nil', 'OK']"),
        ("['nil', 'OK']", "['1', 'OK']"),
        ("['2', 'OK']", "['nil', 'OK']"),
    } == read


def test_orders_of_pods_that_share_no_key_are_left_out(explore: Explore) -> None:
    lines: dict[str, Program] = {pod: (("INCR", pod), ("INCR", pod), ("INCR", pod)) for pod in "AB"}
    bounds = Bounds(preemptions=8, faults=0)
    assert explore(lines, bounds).run <= explore(lines, replace(bounds, reduce=False)).run / 4


def test_replies_to_actors_of_one_pod_never_commute(explore: Explore) -> None:
    """They share the pod's memory, whatever keys they touch; only their steps outside the pod commute."""
    put: Program = (("INCR", "x"), ("PUT", "m", "A"), ("INCR", "x"))
    lines = {"A": put, "A.2": (("INCR", "y"), ("PUT", "m", "A.2"), ("INCR", "y"), ("READ", "m"))}
    bounds = Bounds(preemptions=8, faults=0)
    reduced, whole = explore(lines, bounds), explore(lines, replace(bounds, reduce=False))
    assert reduced.outcomes == whole.outcomes
    assert len(reduced.outcomes) > 1
    assert reduced.run <= whole.run / 3


def test_time_that_passes_among_commands_that_do_not_depend_on_it_is_tried_once(explore: Explore) -> None:
    def schedules(*commands: Any) -> int:
        return explore({"A": commands, "B": (("SETEX", "y", 30, "1"),)}, Bounds(preemptions=0), TimePasses()).run

    assert schedules(*[GET_X] * 2) == schedules(*[GET_X] * 5)
    depends: dict[str, Program] = {
        "gives a life": (("SETEX", "x", 30, "1"),),
        "reads the clock": (("NOW",), GET_X),
        "reads a key that ends": (GET_Y,),
    }
    for name, commands in depends.items():
        assert schedules(*commands * 2) < schedules(*commands * 5), name
