"""Which keys a command touches, checked against the server, and which orders of steps count as the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from podrace.simulator.errors import TargetError
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world.footprints import (
    ALL_OF_IT,
    CHANNELS,
    EVERYTHING,
    NOTHING,
    THE_TIME,
    CommandTable,
    Footprint,
    argv_of,
    key_text,
    sha_of,
)
from podrace.simulator.world.foreign import Guard
from podrace.simulator.world.steps import TRANSACTION
from podrace.simulator.world.trace import MASK, POD, READS_CLOCK, Ends, Trace, state_after


@pytest.fixture(scope="module")
def probe(server: EmbeddedServer) -> Iterator[Probe]:
    made = Probe(connect(server.url), own=True)
    yield made
    made.close()


@pytest.fixture
def table(probe: Probe) -> CommandTable:
    return CommandTable(probe.command_rows(), probe.keys_of)


SHA = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
SCRIPT = f" script {SHA}"
GET_SCRIPT = " script " + sha_of("return redis.call('GET', KEYS[1])")
SET_SCRIPT = " script " + sha_of("return redis.call('SET', KEYS[1], 1, ARGV[1], 9)")
COMMANDS: tuple[tuple[tuple[Any, ...], tuple[tuple[str, ...], tuple[str, ...]]], ...] = (
    (("GET", "k"), (("k",), ())),
    (("get", b"k"), (("k",), ())),
    (("SET", "k", "v", "NX"), ((), ("k",))),
    (("set", "k", "v", "NX", b"ex", 30), ((THE_TIME,), ("k",))),
    (("EXPIRE", "k", 30), ((THE_TIME,), ("k",))),
    (("PTTL", "k"), (("k", THE_TIME), ())),
    (("TIME",), ((THE_TIME,), ())),
    ((TRANSACTION, ("MULTI",), ("SETEX", "a", 1, 2), ("GET", "b"), ("EXEC",)), ((THE_TIME, "b"), ("a",))),
    (("EVAL", "return redis.call('GET', KEYS[1])", 1, "a"), ((), ("a", GET_SCRIPT))),
    (("EVAL", "return redis.call('SET', KEYS[1], 1, ARGV[1], 9)", 1, "a", "EX"), ((THE_TIME,), ("a", SET_SCRIPT))),
    (("MGET", "a", "b", "c"), (("a", "b", "c"), ())),
    (("MSET", "a", 1, "b", 2), ((), ("a", "b"))),
    (("DEL", "a", "b"), ((), ("a", "b"))),
    (("EXISTS", "a", "b"), (("a", "b"), ())),
    (("LRANGE", "k", 0, -1), (("k",), ())),
    (("LMOVE", "a", "b", "LEFT", "LEFT"), ((), ("a", "b"))),
    (("BLPOP", "a", "b", 7), ((), ("a", "b"))),
    (("SUNIONSTORE", "to", "a", "b"), ((), ("to", "a", "b"))),
    (("EVAL", "return 1", 2, "a", "b", "arg"), ((), ("a", "b", SCRIPT))),
    (("eval", b"return 1", b"0", "arg"), ((), (SCRIPT,))),
    (("EVAL_RO", "return 1", 1, "a"), (("a",), (SCRIPT,))),
    (("CONFIG GET", "appendonly"), ((" configuration",), ())),
    (("config", "get", "appendonly"), ((" configuration",), ())),
    (("CONFIG SET", "appendonly", "yes"), ((), (EVERYTHING,))),
    (("EVALSHA", SHA, 1, "a"), ((SCRIPT, THE_TIME), ("a",))),  # a script that nobody has seen
    (("EVALSHA_RO", SHA.upper(), 1, "a"), (("a", SCRIPT, THE_TIME), ())),
    (("SCRIPT LOAD", "return 1"), ((), (SCRIPT,))),
    (("SCRIPT", "EXISTS", SHA), ((SCRIPT,), ())),
    (("SCRIPT FLUSH",), ((), (EVERYTHING,))),
    (("FCALL", "f", 1, "a", "arg"), ((), (EVERYTHING,))),
    (("WATCH", "a", "b"), (("a", "b"), ())),
    (("PING",), ((), ())),
    (("CLIENT SETINFO", "LIB-NAME", "x"), ((), ())),
    (("KEYS", "*"), ((EVERYTHING,), ())),
    (("SCAN", 0), ((EVERYTHING,), ())),
    (("DBSIZE",), ((EVERYTHING,), ())),
    (("RANDOMKEY",), ((EVERYTHING,), ())),
    (("FLUSHALL",), ((), (EVERYTHING,))),
    (("SWAPDB", 0, 1), ((), (EVERYTHING,))),
    (("NO-SUCH-COMMAND", "k"), ((), (EVERYTHING,))),
    (("SET", "k", ["no", "text"]), ((), ("k",))),
    ((TRANSACTION, ("MULTI",), ("SET", "a", 1), ("GET", "b"), ("EXEC",)), (("b",), ("a",))),
    ((TRANSACTION, ("MULTI",), ("GET", "a"), ("GET", "b"), ("GET", "a"), ("EXEC",)), (("a", "b"), ())),
    (("PUBLISH", "channel", "a"), ((), (CHANNELS,))),
    (("SUBSCRIBE", "channel"), ((), (CHANNELS,))),
    # The keys have no fixed place, so the server is asked.
    (("LMPOP", 2, "a", "b", "LEFT"), ((), ("a", "b"))),
    (("ZUNIONSTORE", "to", 2, "a", "b"), (("a", "b"), ("to",))),
    (("XREAD", "COUNT", 1, "STREAMS", "a", "b", 0, 0), (("a", "b", THE_TIME), ())),
    (("XGROUP CREATE", "a", "group", "$", "MKSTREAM"), ((THE_TIME,), ("a",))),
    (("OBJECT", "ENCODING", "a"), (("a",), ())),
    (("SORT", "a", "STORE", "to"), (("a",), ("to",))),
    (("SORT", "a", "BY", "weight_*", "STORE", "to"), (("a", EVERYTHING), ("to",))),
    (("SORT_RO", "a", "GET", "weight_*"), (("a", EVERYTHING), ())),
)


@pytest.mark.parametrize(("command", "touches"), COMMANDS, ids=[" ".join(map(str, c))[:40] for c, _ in COMMANDS])
def test_the_keys_of_a_command(table: CommandTable, command: tuple[Any, ...], touches: Any) -> None:
    assert table.footprint(command) == Footprint(*touches)
    assert table.footprint(command) == Footprint(*touches)


@pytest.mark.parametrize(
    ("command", "is_sent"),
    [
        (("CONFIG GET", "appendonly"), True),
        (("config", "get", "appendonly"), True),
        (("CONFIG SET", "appendonly", "yes"), False),
        (("CONFIG RESETSTAT",), False),
        (("SCRIPT LOAD", "return 1"), True),
        (("SCRIPT FLUSH",), False),
        (("FLUSHALL",), False),
        (("SET", "ours:k", "v"), True),
        (("SET", "k", "v"), False),
        (("GET", "k"), True),
        ((TRANSACTION, ("SET", "ours:k", "v"), ("SET", "k", "v")), False),
    ],
    ids=str,
)
def test_which_commands_are_sent_to_a_foreign_server(
    table: CommandTable, command: tuple[Any, ...], is_sent: bool
) -> None:
    """Commands that only read are sent; those on the whole server, or that write foreign keys, are not."""
    guard = Guard(table, "ours:")
    with nullcontext() if is_sent else pytest.raises(TargetError, match="nothing was sent"):
        guard(command)


def test_the_server_names_the_same_keys(table: CommandTable, redis_client: redis.Redis) -> None:
    asked = 0
    for command, (reads, writes) in COMMANDS:
        if (
            command[0] in (TRANSACTION, "WATCH", "NO-SUCH-COMMAND", "FCALL", "PUBLISH", "SUBSCRIBE")
            or " " in command[0]
        ):
            continue
        if isinstance(command[-1], list):
            continue
        try:
            keys = redis_client.command_getkeys(*command)
        except redis.ResponseError:  # the command has no keys
            keys = []
        ours = {key for key in (*reads, *writes) if key != EVERYTHING and not key.startswith(" ")}
        assert set(keys) == ours, command
        asked += bool(keys)
    assert asked > 15


def test_a_command_whose_keys_are_unknown_touches_everything() -> None:
    table = CommandTable([["zunionstore", -4, [b"write", b"movablekeys"], 1, 1, 1]])
    assert table.footprint(("ZUNIONSTORE", "to", 2, "a", "b")) == Footprint(writes=(EVERYTHING,))


def test_the_cache_of_footprints_is_bounded(table: CommandTable) -> None:
    for number in range(10_100):
        assert table.footprint(("GET", f"key-{number}")).reads == (f"key-{number}",)
    assert len(table._known) < 10_001


DIRTY = "return redis.call('SET', 'any', 1)"


def test_a_script_that_touches_other_keys_touches_everything(table: CommandTable) -> None:
    assert table.footprint(("EVAL", DIRTY, 1, "a")) == ALL_OF_IT
    assert table.unclear
    assert table.footprint(("EVAL", "return 1", 1, "a")) != ALL_OF_IT
    assert len(table.unclear) == 1


@pytest.mark.parametrize("learnt", [("EVAL", DIRTY, 1, "a"), ("SCRIPT LOAD", DIRTY)], ids=["by EVAL", "by SCRIPT LOAD"])
def test_the_keys_of_evalsha_are_known_once_the_scripts_text_was_sent(
    table: CommandTable, redis_client: redis.Redis, learnt: tuple[Any, ...]
) -> None:
    by_name = ("EVALSHA", redis_client.script_load(DIRTY), 1, "a")
    assert table.footprint(by_name).writes == ("a",)
    assert table.script_of(argv_of(by_name)) is None
    table.footprint(learnt)
    assert table.footprint(by_name) == ALL_OF_IT
    assert table.script_of(argv_of(by_name)) == DIRTY


def test_loading_a_script_conflicts_with_calling_it_by_name_and_two_loads_of_others_do_not(table: CommandTable) -> None:
    loads, calls = table.footprint(("EVAL", "return 1", 0)), table.footprint(("EVALSHA", SHA, 0))
    other = table.footprint(("SCRIPT LOAD", "return 2"))
    assert conflict(("A", loads, ""), ("B", calls, ""))
    assert not conflict(("A", loads, ""), ("B", other, ""))


@pytest.mark.parametrize("key", [b"a", b"\xff\x00", "ä".encode(), b"a b\n"])
def test_a_keys_name_converts_back_to_its_bytes(key: bytes) -> None:
    assert key_text(key).encode("utf-8", "surrogateescape") == key


def test_no_two_keys_share_a_name(table: CommandTable) -> None:
    assert len({table.footprint(("GET", key)).reads for key in (b"\xff", b"\\xff", b"\xfe")}) == 3
    assert table.footprint(("GET", "ä")) == table.footprint(("GET", "ä".encode()))


footprints = st.sampled_from(
    [NOTHING, ALL_OF_IT, Footprint(reads=(EVERYTHING,))]
    + [Footprint(tuple(r), tuple(w)) for r in ("", "x", "y", "xy") for w in ("", "x", "y", "xy") if r or w]
)
steps = st.lists(st.tuples(st.sampled_from("ABC"), footprints), min_size=2, max_size=8).map(
    lambda found: [(pod, footprint, f"step {number}") for number, (pod, footprint) in enumerate(found)]
)


READS_X, TIME_PASSES = Footprint(reads=("x",)), Footprint(writes=(THE_TIME, "a key that ends"))
Labelled = tuple[str, Footprint, str]


def value(order: list[Labelled]) -> int:
    trace = Trace()
    for pod, footprint, label in order:
        event = trace.event(pod, label, footprint)
        predicted = (trace.value + event) & MASK
        trace.add(event, pod, footprint)
        assert trace.value == predicted
    return trace.value


def conflict(one: Labelled, two: Labelled) -> bool:
    """By the definition, not as Trace does it. A step that writes everything is a barrier."""
    if one[0] == two[0] or EVERYTHING in (*one[1].writes, *two[1].writes):
        return True

    def meet(writes: tuple[str, ...], touched: tuple[str, ...]) -> bool:
        return bool(writes) and (EVERYTHING in touched or bool(set(writes) & set(touched)))

    return meet(one[1].writes, (*two[1].reads, *two[1].writes)) or meet(two[1].writes, one[1].reads)


@given(order=steps, place=st.integers(0, 6))
def test_swapping_neighbours_shows_where_they_conflict_and_only_there(order: list[Labelled], place: int) -> None:
    place %= len(order) - 1
    one, two = order[place], order[place + 1]
    swapped = [*order[:place], two, one, *order[place + 2 :]]
    if conflict(one, two):
        assert value(swapped) != value(order)
    else:
        assert value(swapped) == value(order)


@given(pods=st.lists(st.sampled_from("ABCD"), min_size=2, max_size=4, unique=True), key=st.text(max_size=3))
def test_a_fault_on_one_pod_and_on_another_give_different_fingerprints(pods: list[str], key: str) -> None:
    """Two events swap their outcomes: if hashes were nearly additive, their sums would collide here."""
    values = set()
    for struck in pods:
        trace = Trace()
        for pod in pods:
            footprint = Footprint(reads=(key,))
            event = trace.event(f"{pod}.{key}", "drop-request" if pod == struck else "go", footprint)
            trace.add(event, pod, footprint)
        values.add(trace.value)
    assert len(values) == len(pods)


@pytest.mark.parametrize("touches", [Footprint(reads=("x",)), Footprint(writes=("x",)), NOTHING])
def test_the_action_on_a_step_is_part_of_the_fingerprint(touches: Footprint) -> None:
    values = set()
    for actor, action in (("A", "go"), ("A", "drop-reply"), ("A.2", "go")):
        trace = Trace()
        trace.add(trace.event(actor, action, touches), "A", touches)
        values.add(trace.value)
    assert len(values) == 3


def told(*what: tuple[str, str], timed: bool = True) -> int:
    """The fingerprint if pods begin and end calls in this order, each by a step that touches nothing."""
    trace = Trace()
    for pod, name in what:
        begins = name.startswith("begin") and timed
        event = trace.event(pod, name, NOTHING, begins=begins)
        trace.add(event, pod, NOTHING, begins=begins)
        if name.startswith("end"):
            trace.end(event, name, timed=timed)
    return trace.value


BEGIN_A, BEGIN_B, END_A, END_B = ("A", "begin a"), ("B", "begin b"), ("A", "end a"), ("B", "end b")


def test_an_end_and_the_begin_of_another_call_do_not_commute() -> None:
    assert told(END_A, BEGIN_B) != told(BEGIN_B, END_A)


def test_two_begins_and_two_ends_commute() -> None:
    assert told(BEGIN_A, BEGIN_B) == told(BEGIN_B, BEGIN_A)
    assert told(BEGIN_A, BEGIN_B, END_A, END_B) == told(BEGIN_B, BEGIN_A, END_B, END_A)


def test_where_no_check_looks_at_real_time_an_end_and_a_begin_commute() -> None:
    assert told(END_A, BEGIN_B, timed=False) == told(BEGIN_B, END_A, timed=False)


def test_a_call_that_has_waited_for_another_comes_after_its_end() -> None:
    """Which end it has waited for must make a difference to the fingerprint."""
    values = set()
    for ended in ("first", "second"):
        trace = Trace()
        event = trace.event("A", f"step {ended}", NOTHING)
        trace.add(event, "A", NOTHING)
        trace.end(event, "m1", timed=False)
        values.add(trace.event("B", "go", NOTHING, after=("m1",)))
        assert trace.event("B", "go", NOTHING) == Trace().event("B", "go", NOTHING)
    assert len(values) == 2


def timed(*names: str) -> int:
    """The fingerprint if time passes among steps of pod A, which read x; after one with `!` A reads the clock."""
    trace = Trace()
    for name in names:
        actor, touches = ("clock", TIME_PASSES) if name == "time" else ("A", READS_X)
        event = trace.event(actor, name, touches)
        trace.add(event, actor, touches)
        if name == "time":
            trace.passes(event)
        elif name.endswith("!"):
            trace.reads_clock(event, actor, scope=POD)
    return trace.value


def test_time_that_passes_commutes_with_what_does_not_depend_on_it() -> None:
    assert timed("1", "time", "2") == timed("time", "1", "2") == timed("1", "2", "time")
    assert timed("1!", "time", "2") != timed("time", "1!", "2")
    assert timed("1!", "time", "2") == timed("1!", "2", "time")


def test_the_state_after_a_step_is_known_where_the_pod_reads_the_clock() -> None:
    states: set[int] = set()
    ends: Ends = {}
    for passes in (False, True):
        trace = Trace()
        if passes:
            event = trace.event("clock", "time", TIME_PASSES)
            trace.add(event, "clock", TIME_PASSES)
            trace.passes(event)
        before, event = trace.before(), trace.event("A", "go", READS_X)
        trace.add(event, "A", READS_X)
        ends[event] = READS_CLOCK
        assert state_after(before, event, False, ends) is None  # what it ends after that is not known yet
        ends[trace.reads_clock(event, "A", scope=POD)] = ()
        assert state_after(before, event, False, ends) == trace.value
        states.add(trace.value)
    assert len(states) == 2


def test_another_process_computes_the_same_fingerprint() -> None:
    code = (
        "from podrace.simulator.world.trace import Trace; from podrace.simulator.world.footprints import Footprint; "
        "t = Trace(); f = Footprint(('a',), ('b', 'c')); print(t.event('A', 'go', f))"
    )
    here = Trace().event("A", "go", Footprint(("a",), ("b", "c")))
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert int(done.stdout) == here
