"""Which keys a command touches, as the server itself tells it, and which orders of steps count as the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world.footprints import ALL_OF_IT, EVERYTHING, NOTHING, CommandTable, Footprint, Trace


@pytest.fixture(scope="module")
def table(server: EmbeddedServer) -> Iterator[CommandTable]:
    probe = Probe(connect(server.url))
    yield probe.table()
    probe.close()


SHA = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
COMMANDS: tuple[tuple[tuple[Any, ...], tuple[tuple[str, ...], tuple[str, ...]]], ...] = (
    (("GET", "k"), (("k",), ())),
    (("get", b"k"), (("k",), ())),
    (("SET", "k", "v", "NX", "EX", 30), ((), ("k",))),
    (("MGET", "a", "b", "c"), (("a", "b", "c"), ())),
    (("MSET", "a", 1, "b", 2), ((), ("a", "b"))),
    (("DEL", "a", "b"), ((), ("a", "b"))),
    (("EXISTS", "a", "b"), (("a", "b"), ())),
    (("LRANGE", "k", 0, -1), (("k",), ())),
    (("LMOVE", "a", "b", "LEFT", "LEFT"), ((), ("a", "b"))),
    (("BLPOP", "a", "b", 7), ((), ("a", "b"))),
    (("SUNIONSTORE", "to", "a", "b"), ((), ("to", "a", "b"))),
    (("EVAL", "return 1", 2, "a", "b", "arg"), ((), ("a", "b"))),
    (("EVAL", "return 1", 0, "arg"), ((), ())),
    (("EVAL_RO", "return 1", 1, "a"), (("a",), ())),
    (("EVALSHA", SHA, 1, "a"), ((f"script {SHA}",), ("a",))),
    (("SCRIPT LOAD", "return 1"), ((), (f"script {SHA}",))),
    (("FCALL", "f", 1, "a", "arg"), ((), ("a",))),
    (("WATCH", "a", "b"), (("a", "b"), ())),
    (("PING",), ((), ())),
    (("CLIENT SETINFO", "LIB-NAME", "x"), ((), ())),
    (("KEYS", "*"), ((EVERYTHING,), ())),
    (("SCAN", 0), ((EVERYTHING,), ())),
    (("FLUSHALL",), ((), (EVERYTHING,))),
    (("NO-SUCH-COMMAND", "k"), ((), (EVERYTHING,))),
    (("SET", "k", ["no", "text"]), ((), ("k",))),
    (("BATCH", ("MULTI",), ("SET", "a", 1), ("GET", "b"), ("EXEC",)), (("b",), ("a",))),
    (("BATCH", ("GET", "a"), ("GET", "b")), (("a", "b"), ())),
    # Keys in no fixed place: the server is asked.
    (("LMPOP", 2, "a", "b", "LEFT"), ((), ("a", "b"))),
    (("ZUNIONSTORE", "to", 2, "a", "b"), (("a", "b"), ("to",))),
    (("XREAD", "COUNT", 1, "STREAMS", "a", "b", 0, 0), (("a", "b"), ())),
    (("XGROUP CREATE", "a", "group", "$", "MKSTREAM"), ((), ("a",))),
    (("OBJECT", "ENCODING", "a"), (("a",), ())),
    (("PUBLISH", "channel", "a"), ((), (EVERYTHING,))),
    (("SORT", "a", "STORE", "to"), (("a",), ("to",))),
    (("SORT", "a", "BY", "weight_*", "STORE", "to"), (("a", EVERYTHING), ("to",))),
)


@pytest.mark.parametrize(("command", "touches"), COMMANDS, ids=[" ".join(map(str, c))[:40] for c, _ in COMMANDS])
def test_the_keys_of_a_command(table: CommandTable, command: tuple[Any, ...], touches: Any) -> None:
    assert table.footprint(command) == Footprint(*touches)
    assert table.footprint(command) == Footprint(*touches)


def test_the_server_names_the_same_keys(table: CommandTable, redis_client: redis.Redis) -> None:
    asked = 0
    for command, (reads, writes) in COMMANDS:
        if command[0] in ("BATCH", "WATCH", "NO-SUCH-COMMAND") or " " in command[0] or isinstance(command[-1], list):
            continue
        try:
            keys = redis_client.command_getkeys(*command)
        except redis.ResponseError:  # has none
            keys = []
        ours = {key for key in (*reads, *writes) if key != EVERYTHING and not key.startswith("script ")}
        assert set(keys) == ours, command
        asked += bool(keys)
    assert asked > 15


def test_what_no_server_can_tell_touches_everything() -> None:
    table = CommandTable([["zunionstore", -4, [b"write", b"movablekeys"], 1, 1, 1]])
    assert table.footprint(("ZUNIONSTORE", "to", 2, "a", "b")) == Footprint(writes=(EVERYTHING,))


def test_many_commands_are_remembered_only_so_far(table: CommandTable) -> None:
    for number in range(10_100):
        assert table.footprint(("GET", f"key-{number}")).reads == (f"key-{number}",)
    assert len(table._known) < 10_001


footprints = st.sampled_from(
    [NOTHING, ALL_OF_IT, Footprint(reads=(EVERYTHING,))]
    + [Footprint(tuple(r), tuple(w)) for r in ("", "x", "y", "xy") for w in ("", "x", "y", "xy") if r or w]
)
steps = st.lists(st.tuples(st.sampled_from("ABC"), footprints), min_size=2, max_size=8).map(
    lambda found: [(pod, footprint, f"step {number}") for number, (pod, footprint) in enumerate(found)]
)


Labelled = tuple[str, Footprint, str]


def value(order: list[Labelled]) -> int:
    trace = Trace()
    for pod, footprint, label in order:
        predicted = (trace.value + trace.event(pod, label, footprint)) & ((1 << 61) - 1)
        trace.add(pod, label, footprint)
        assert trace.value == predicted
    return trace.value


def conflict(one: Labelled, two: Labelled) -> bool:
    """By definition, not as Trace does it. What writes everything is a barrier: a pause is one."""
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
def test_what_befell_one_is_not_what_befell_another(pods: list[str], key: str) -> None:
    """Sums of hashes that are nearly sums themselves would meet here: two events exchange what becomes of them."""
    values = set()
    for struck in pods:
        trace = Trace()
        for pod in pods:
            trace.add(f"{pod}.{key}", "drop-request" if pod == struck else "go", Footprint(reads=(key,)))
        values.add(trace.value)
    assert len(values) == len(pods)


@pytest.mark.parametrize("touches", [Footprint(reads=("x",)), Footprint(writes=("x",)), NOTHING])
def test_what_becomes_of_a_step_is_part_of_the_trace(touches: Footprint) -> None:
    values = set()
    for actor, action in (("A", "go"), ("A", "drop-reply"), ("A.2", "go")):
        trace = Trace()
        trace.add(actor, action, touches)
        values.add(trace.value)
    assert len(values) == 3
