"""The reduction, which skips equivalent orders, loses no outcome: small programs are explored with and without it.

The comparison is as fine as it can be: the value and lifetime of every key, what every call returned and when, who
waits for ever, and which call ended before which other began. `PODRACE_PROGRAMS=5000` tries more than CI does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st

from podrace import (
    Call,
    CancelCall,
    CorruptKey,
    Finding,
    Kill,
    LoseConnection,
    Run,
    Scenario,
    TimePasses,
)
from podrace.simulator.search.explorer import Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.embedded import EmbeddedServer

pytestmark = [pytest.mark.wide, pytest.mark.long]

PROGRAMS = int(os.environ.get("PODRACE_PROGRAMS", "200"))
MOST_SCHEDULES = int(os.environ.get("PODRACE_SCHEDULES", "40"))
FAULTS: dict[str, Any] = {
    "none": [],
    "kill": [Kill()],
    "restart": [Kill(restart=True)],
    "time": [TimePasses()],
    "connection": [LoseConnection()],
    "corrupt": [CorruptKey()],
    "cancel": [CancelCall()],
    "kill and time": [Kill(pods=frozenset("A")), TimePasses()],
    "restart and time": [Kill(restart=True, pods=frozenset("A")), TimePasses()],
    "connection and time": [LoseConnection(pods=frozenset("A")), TimePasses()],
}


@dataclass(frozen=True)
class Program:
    """For each line its calls, and for each call its commands."""

    lines: dict[str, tuple[tuple[Any, ...], ...]]
    fault: str
    preemptions: int
    retries: int
    insist: bool = False
    target: str = "cases.programs:Runner"

    def scenario(self, checks: Sequence[Any]) -> Scenario:
        calls = {
            actor: [Call(f"{actor} {number}", "run", (f"{actor} {number}",), insist=self.insist)
                    for number in range(len(programs))]
            for actor, programs in self.lines.items()
        }  # fmt: skip
        named = {f"{actor} {number}": program
                 for actor, programs in self.lines.items() for number, program in enumerate(programs)}  # fmt: skip
        return Scenario(
            "program",
            lines=calls,
            faults=FAULTS[self.fault],
            checks=checks,
            keeps=["*"],
            options={"programs": named},
            retries=(self.retries,),
        )


class TooLargeError(Exception):
    """The program has more schedules than the test runs."""


def outcomes(server: Server, program: Program, *, reduce: bool, faults: int = 1) -> tuple[Any, set[str], int]:
    """The words of the verdict, with the outcomes of all schedules."""
    seen: set[str] = set()

    def note(run: Run) -> Iterator[Finding]:
        calls = [(one.name, one.type, one.value, one.error) for one in sorted(run.calls, key=lambda one: one.name)]
        order = sorted((one.name, other.name) for one in run.calls for other in run.calls if one.before(other))
        left = [(one.key, one.value, one.left_s) for one in run.left]
        passed = [(place, one["passes_s"]) for place, one in enumerate(run.history) if one["type"] == "time"]
        times_s = {
            one.name: [sum(s for place, s in passed if place < until) for until in (one.began, one.ended or 0)]
            for one in run.calls
        }
        seen.add(repr((calls, sorted(times_s.items()), order, left, dict(sorted(run.waits.items())))))
        return iter(())

    def count(runs: int) -> None:
        if runs > MOST_SCHEDULES:
            raise TooLargeError

    scenario = program.scenario([note])
    with InlineLab(server, program.target, scenario, seed=7) as lab:
        bounds = Bounds(preemptions=program.preemptions, faults=faults, budget_s=600, reduce=reduce)
        found = Explorer(lab.scenario, lab.play, lab.finish, bounds, progress=count, worst="never").explore()
    assert found.complete or not reduce
    return found.outcomes, seen, found.run


def difference(server: Server, program: Program) -> str:
    """How the two explorations differ; empty if they do not."""
    words, reduced, runs = outcomes(server, program, reduce=True)
    all_words, everything, all_runs = outcomes(server, program, reduce=False)
    event(f"{len(reduced)} outcomes")
    if reduced == everything and words == all_words:
        return ""
    missing, more = sorted(everything - reduced), sorted(reduced - everything)
    return (
        f"{program}\n{runs} of {all_runs} schedules; {len(reduced)} of {len(everything)} outcomes; "
        f"words {sorted(words)} of {sorted(all_words)}\nmissing: {missing[:2]}\nmore: {more[:2]}"
    )


LIVES = st.sampled_from([2, 100])
TEXTS, LISTS = st.sampled_from(["x", "y"]), st.sampled_from(["l", "m"])
PLAIN = st.one_of(
    st.tuples(st.just("GET"), TEXTS),
    st.tuples(st.just("SET"), TEXTS, st.sampled_from(["1", "2", "<"]), st.just("NX"), st.just("EX"), LIVES),
    st.tuples(st.just("SET"), TEXTS, st.sampled_from(["3", "<"])),
    st.tuples(st.just("INCR"), TEXTS),
    st.tuples(st.just("APPEND"), TEXTS, st.sampled_from(["a", "<"])),
    st.tuples(st.just("DEL"), TEXTS),
    st.tuples(st.just("RPUSH"), LISTS, st.sampled_from(["p", "q"])),
    st.tuples(st.just("LPOP"), LISTS),
    st.tuples(st.just("LRANGE"), LISTS, st.just(0), st.just(-1)),
    st.tuples(st.just("HSET"), st.just("h"), st.sampled_from("fg"), st.sampled_from(["1", "<"])),
    st.tuples(st.just("HGETALL"), st.just("h")),
    st.tuples(st.just("PTTL"), TEXTS),
    st.tuples(st.just("EXPIRE"), TEXTS, st.sampled_from([2, 50])),
    st.tuples(st.just("SADD"), st.just("s"), st.sampled_from("uv")),
    st.tuples(st.just("SPOP"), st.just("s")),
    st.tuples(st.just("XADD"), st.just("e"), st.just("*"), st.just("f"), st.just("1")),
    st.tuples(st.just("XLEN"), st.just("e")),
    st.tuples(st.just("PUBLISH"), st.just("c"), st.just("hello")),
)  # fmt: skip
STEPS = st.one_of(
    PLAIN,
    PLAIN,
    PLAIN.map(lambda command: ("SPAWN", *command)),
    PLAIN.map(lambda command: ("LOCKED", *command)),
    st.tuples(st.just("TRANSACTION"), TEXTS, TEXTS),
    st.tuples(st.just("PIPELINE"), PLAIN, PLAIN),
    st.tuples(st.just("BOTH"), PLAIN, PLAIN),
    st.tuples(st.just("SCRIPT"), st.just("ADD"), TEXTS, TEXTS),
    st.tuples(st.just("SCRIPT"), st.just("MOVE"), LISTS, LISTS),
    st.tuples(st.just("SCRIPT"), st.sampled_from(["LEASE", "RENEW", "CHECK"]), TEXTS, TEXTS),
    st.tuples(st.just("POP"), LISTS, st.sampled_from([0, 1, 3])),
    st.tuples(st.just("WAIT"), st.just("c")),
    st.tuples(st.just("REMEMBER"), st.just("word")),
    st.tuples(st.just("LEARN"), TEXTS),
    st.tuples(st.just("RECALL")),
    st.tuples(st.just("NOW")),
    st.tuples(st.just("CLOCK")),
    st.tuples(st.just("SLEEP"), st.sampled_from([0, 1, 3])),
)


PLAIN_CODE = st.one_of(
    PLAIN,
    PLAIN,
    PLAIN.map(lambda command: ("SPAWN", *command)),
    PLAIN.map(lambda command: ("LOCKED", *command)),
    PLAIN.map(lambda command: ("JOIN", *command)),
    st.tuples(st.just("SPAWN"), st.just("SLEEP"), st.just(1)),
    st.tuples(st.just("JOIN"), st.just("WAIT_EVENT"), st.just(3)),
    st.tuples(st.just("SPAWN"), st.just("LEARN"), TEXTS),
    st.tuples(st.just("LEARN"), TEXTS),
    st.tuples(st.just("REMEMBER"), st.just("word")),
    st.tuples(st.just("RECALL")),
    st.tuples(st.just("SET_EVENT")),
    st.tuples(st.just("WAIT_EVENT"), st.sampled_from([1, 3])),
    st.tuples(st.just("PUT"), st.sampled_from(["one", "<"])),
    st.tuples(st.just("TAKE"), st.sampled_from([1, 3])),
    st.tuples(st.just("SLEEP"), st.sampled_from([0, 1, 3])),
)
"""The commands of plain programs, among them those on memory, locks, events and queues of the pod."""
PLAIN_TARGETS = ("cases.plain_programs:threaded", "cases.plain_programs:asynchronous")


@st.composite
def programs(draw: st.DrawFn, steps: Any = STEPS, targets: Sequence[str] = ("cases.programs:Runner",)) -> Program:
    actors = draw(st.sampled_from([("A", "B"), ("A", "A.two", "B"), ("A", "B", "C")]))
    most = 3 if len(actors) == 2 else 2
    lines: dict[str, Any] = {}
    for actor in actors:
        commands = draw(st.lists(steps, min_size=1, max_size=most))
        cut = draw(st.integers(0, len(commands) - 1))
        parts = [tuple(commands[:cut]), tuple(commands[cut:])] if cut else [tuple(commands)]
        lines[actor] = tuple(parts)
    return Program(
        lines,
        fault=draw(st.sampled_from(sorted(FAULTS))),
        preemptions=draw(st.integers(0, 3)),
        retries=draw(st.sampled_from([0, 0, 1])),
        target=draw(st.sampled_from(targets)),
    )


@pytest.fixture
def run_server(server: EmbeddedServer) -> Server:
    return Server(url=server.url, info=server.info(), prefix="cases:", embedded=server)


SHARES = range(4)
"""The programs are drawn in several tests, which can run at once, each with a seed of its own."""
MANY = settings(
    max_examples=PROGRAMS // len(SHARES),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def compare(server: Server, drawn: st.SearchStrategy[Program], share: int) -> None:
    @seed(share)
    @MANY
    @given(program=drawn)
    def differ_nowhere(program: Program) -> None:
        try:
            assert not difference(server, program)
        except TooLargeError:
            event("too large")

    differ_nowhere()


@pytest.mark.parametrize("share", SHARES)
def test_the_reduction_leaves_out_no_outcome(run_server: Server, share: int) -> None:
    compare(run_server, programs(), share)


@pytest.mark.parametrize("share", [0, 1, *(pytest.param(share, marks=pytest.mark.nightly) for share in (2, 3))])
def test_the_reduction_leaves_out_no_outcome_of_plain_code(run_server: Server, share: int) -> None:
    compare(run_server, programs(PLAIN_CODE, PLAIN_TARGETS), share)


def test_a_pod_that_is_killed_while_it_is_blocked_takes_its_connection_with_it(run_server: Server) -> None:
    """Started again, the pod got the connection that still waited, on which the server answered nothing more."""
    waits = {"A": ((("POP", "m", 1),),), "A.two": ((("POP", "m", 1),),)}
    _, _, runs = outcomes(run_server, Program(waits, fault="restart", preemptions=0, retries=0), reduce=True)
    assert runs > 1
