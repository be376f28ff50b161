"""Leaving out equivalent orders leaves out no outcome: small programs, explored with the reduction and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from podrace.simulator.fleets.inline import InlineFleet, MemoryList
from podrace.simulator.history.events import plain
from podrace.simulator.scenarios.catalogue import Absorb, Call, Scenario
from podrace.simulator.scenarios.faults import EarlyTimer, ExpireKey, Fault, Kill, LoseConnection, Pause
from podrace.simulator.search import heap
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import one_core
from podrace.simulator.search.play import Play
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.target import PodEnv
from podrace.simulator.world.footprints import CommandTable
from podrace.simulator.world.gates import DROP_REPLY, Gate, gated_client, make_env, set_gate

Program = tuple[tuple[Any, ...], ...]
"""Commands in order. An argument `<` stands for the reply before."""

ALL = Bounds(preemptions=8, faults=0)
ADD = "return redis.call('INCRBY', KEYS[1], 2) + (redis.call('GET', KEYS[2]) or 0)"
NEVER = "no kind of finding: the search goes on to its end"


def counter() -> Callable[[], str]:
    """What it counts, only the function itself knows."""
    calls: list[None] = []

    def count() -> str:
        calls.append(None)
        return f"call {len(calls)}"

    return count


class Runner:
    """The smallest target: `absorb` runs the program that goes by the user's name."""

    def __init__(self, env: PodEnv) -> None:
        self._env = env
        self._memory: dict[str, Any] = {}
        self._lock = env.runtime.lock()
        self._count = counter()

    def absorb(self, user_id: str) -> list[Any]:
        replies: list[Any] = []
        handed: list[str] = []
        for name, *args in self._env.options["programs"][user_id]:
            last = replies[-1] if replies and isinstance(replies[-1], str | int) else "none"
            if name == "HAND":  # what a child then changes, the pod itself does not know
                self._env.runtime.spawn("child", lambda key=args[0]: handed.append(self._run("GET", [key])))
            elif name == "HANDED":
                replies.append(f"{len(handed)} handed")
            else:
                replies.append(self._run(name, [last if arg == "<" else arg for arg in args]))
        return replies

    def _run(self, name: str, args: list[Any]) -> Any:
        env = self._env
        if name == "SLEEP":
            return env.runtime.sleep(args[0])
        if name == "NOW":
            return env.redis.set(args[0], f"{env.runtime.now():.0f}")
        if name == "SPAWN":
            return env.runtime.spawn("child", lambda: self._spawned(args[0]))
        if name == "PUT":
            return self._memory.update({args[0]: args[1]})
        if name == "READ":
            return str(self._memory.get(args[0]))
        if name == "COUNT":
            return self._count()
        if name == "LOCKED":  # a command while no other actor of the pod has the lock
            with self._lock:
                return self._run("APPEND", args)
        if name == "CAS":  # WATCH args[0], then write args[1] in a transaction
            return self._transaction(*args)
        reply = env.redis.execute_command(name, *args)
        return plain(sorted(reply) if name == "KEYS" else reply)

    def _spawned(self, program: Program) -> None:
        for command in program:
            self._run(command[0], list(command[1:]))

    def _transaction(self, watched: str, written: str) -> str:
        from redis import WatchError

        with self._env.redis.pipeline() as pipe:
            pipe.watch(watched)
            pipe.multi()
            pipe.incr(written)
            try:
                return plain(pipe.execute())
            except WatchError:
                return "aborted"

    def add_message(self, *_: Any) -> list[Any]:
        return []

    def upload_status(self, placeholder: Any) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing to close."""


class ShortPlay(Play):
    """Ends with the last line: what the keys hold then is the outcome."""

    def _drain(self) -> list[str]:
        return []


@dataclass
class Space:
    """All schedules of some programs, run once, and what came out of them."""

    run: int
    outcomes: set[Any]
    found: Exploration


@dataclass
class Tiny:
    """Explores programs on one server; holds what all explorations share."""

    server: EmbeddedServer
    probe: Probe
    table: CommandTable
    clients: dict[tuple[str, int], Any] = field(default_factory=dict)

    def explore(
        self,
        programs: dict[str, Program],
        bounds: Bounds,
        *faults: Fault,
        retries: int = 0,
        keys: tuple[str, ...] = ("x", "y", "z"),
        after: dict[str, str] | None = None,
        target: type[Runner] = Runner,
    ) -> Space:
        """`programs`: by actor (`A`, `A.2`, `B`). `after`: an actor that begins when another has ended."""
        lines: dict[str, tuple[Call, ...]] = {
            actor: (Absorb(actor, user=actor, after=((after or {})[actor],) if actor in (after or {}) else ()),)
            for actor in programs
        }
        scenario = Scenario("tiny", 0, lines, "", faults=faults, options={"programs": programs}, retries=(retries,))
        outcomes: set[Any] = set()
        fleets: list[InlineFleet] = []

        def play(retries: int) -> Play:
            def env(name: str, gate: Gate) -> PodEnv:
                client = self._client(name, retries)
                set_gate(client, gate)
                return make_env(
                    name=name,
                    gate=gate,
                    client=client,
                    prefix="",
                    gemini=None,  # type: ignore[arg-type]
                    memory=MemoryList(),
                    seed=1,
                    options=scenario.options,
                )

            fleets[:] = [InlineFleet(target, env)]
            return ShortPlay(
                scenario,
                fleets[0],
                self.probe,
                self.table,
                files={},
                deliveries=list,
                images=dict,
                prefix="",
            )

        def finish(done: Play) -> None:
            fleets[0].close()
            if done.events and done.events[-1]["type"] == "final":
                outcomes.add(self._outcome(done, keys))
            self.probe.delete(*done.touched, *keys)

        found = Explorer(scenario, play, finish, bounds, worst=NEVER).explore()
        assert found.complete
        return Space(found.run, outcomes, found)

    def _client(self, name: str, retries: int) -> Any:
        if (name, retries) not in self.clients:
            client = connect(self.server.url, retries=retries)
            self.clients[name, retries] = gated_client(client, _NoGate(), one_connection=True)
        return self.clients[name, retries]

    def _outcome(self, done: Play, keys: tuple[str, ...]) -> Any:
        """What each actor was told, and what each key holds at the end."""
        told: dict[str, list[str]] = {}
        calls = {event["call"]: event["actor"] for event in done.events if event["type"] == "invoke"}
        for event in done.events:
            if event["type"] == "step":
                told.setdefault(event["actor"], []).append(_said(event))
            elif event["type"] in ("ok", "fail", "info"):
                told.setdefault(calls[event["call"]], []).append(str(event.get("result", event.get("error"))))
        return (
            tuple((actor, *said) for actor, said in sorted(told.items())),
            tuple((key, *self.probe.values([key])) for key in keys),
        )


def _said(event: dict[str, Any]) -> str:
    if event["step"].kind == "lock":
        return "waited"
    reply = event["reply"]  # KEYS lists them in the order of a hash table
    return f"{event['step'].args} {plain(sorted(reply) if event['step'].args[0] == 'KEYS' and reply else reply)}"


class _NoGate:
    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        return "go"

    def after(self, reply: Any) -> None:
        """Nobody asks."""


@pytest.fixture(scope="module")
def tiny(server: EmbeddedServer, own_core: None) -> Iterator[Tiny]:
    probe = Probe(connect(server.url))
    made = Tiny(server, probe, probe.table())
    with one_core(Server(url=server.url, info=server.info(), prefix="", embedded=server)):
        yield made
    for client in made.clients.values():
        client.close()
    probe.close()


keys = st.sampled_from(["x", "y", "z"])
values = st.sampled_from(["<", "1", "7"])
commands = st.one_of(
    st.tuples(st.just("GET"), keys),
    st.tuples(st.just("SET"), keys, values),
    st.tuples(st.just("INCR"), keys),
    st.tuples(st.just("APPEND"), keys, values),
    st.tuples(st.just("DEL"), keys),
    st.tuples(st.just("MGET"), keys, keys),
    st.tuples(st.just("EVAL"), st.just(ADD), st.just(2), keys, keys),
    st.tuples(st.just("RPUSH"), st.just("list"), values),
    st.tuples(st.just("LRANGE"), st.just("list"), st.just(0), st.just(-1)),
)
waits = st.one_of(
    st.tuples(st.just("SLEEP"), st.sampled_from([1, 2])),
    st.tuples(st.just("NOW"), keys),
    st.tuples(st.just("SPAWN"), st.lists(commands | st.just(("SLEEP", 1)), min_size=1, max_size=2).map(tuple)),
)
rare = st.one_of(
    st.tuples(st.just("SETEX"), keys, st.just(30), values),
    st.tuples(st.just("KEYS"), st.just("*")),
    st.tuples(st.just("CAS"), keys, keys),
)


def programs(*, most: int, size: int, kinds: Any = commands) -> st.SearchStrategy[dict[str, Program]]:
    """Two or three actors, the third in a pod of its own or in A; `most` commands in all."""
    program = st.lists(kinds, min_size=1, max_size=size).map(tuple)
    two = st.fixed_dictionaries({"A": program, "B": program})
    three = st.sampled_from(["C", "A.2"]).flatmap(
        lambda name: st.fixed_dictionaries({"A": program, "B": program, name: program})
    )
    return (two | three).filter(lambda found: sum(map(len, found.values())) <= most)


def same_outcomes(tiny: Tiny, lines: dict[str, Program], bounds: Bounds, *faults: Fault, **more: Any) -> None:
    keys = ("x", "y", "z", "list")
    reduced = tiny.explore(lines, bounds, *faults, keys=keys, **more)
    whole = tiny.explore(lines, replace(bounds, reduce=False), *faults, keys=keys, **more)
    assert reduced.outcomes == whole.outcomes, (
        f"only in all orders: {whole.outcomes - reduced.outcomes}; only reduced: {reduced.outcomes - whole.outcomes}"
    )


hypothesis_settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(hypothesis_settings, max_examples=120)
@given(lines=programs(most=6, size=4), preemptions=st.sampled_from([0, 1, 2, 8]))
def test_every_order_of_small_programs_ends_as_some_order_that_is_run(
    tiny: Tiny, lines: dict[str, Program], preemptions: int
) -> None:
    same_outcomes(tiny, lines, Bounds(preemptions=preemptions, faults=0))


@settings(hypothesis_settings, max_examples=12)
@given(lines=programs(most=5, size=3, kinds=commands | waits | rare), preemptions=st.sampled_from([0, 1, 2, 8]))
def test_every_order_with_timers_children_and_transactions(
    tiny: Tiny, lines: dict[str, Program], preemptions: int
) -> None:
    same_outcomes(tiny, lines, Bounds(preemptions=preemptions, faults=0))


in_memory = st.one_of(
    st.tuples(st.just("PUT"), st.just("m"), values),
    st.just(("READ", "m")),
    st.just(("COUNT",)),
    st.tuples(st.just("LOCKED"), keys, st.just("<")),
    st.tuples(st.just("HAND"), keys),
    st.just(("HANDED",)),
)
a_command_then_memory = st.tuples(st.sampled_from([("GET", "x"), ("GET", "y"), ("INCR", "z")]), in_memory)
memory_program = st.lists(a_command_then_memory, min_size=1, max_size=2).map(lambda pairs: sum(pairs, ()))


def twice(one: tuple[Any, ...], other: tuple[Any, ...]) -> dict[str, Program]:
    """Two actors of one pod, each a command and its way with memory, two times."""
    return {"A": (("GET", "x"), one, ("GET", "x"), one), "A.2": (("GET", "y"), other, ("GET", "y"), other)}


@settings(hypothesis_settings, max_examples=40)
@given(
    lines=st.sampled_from([("A", "A.2"), ("A", "A.2", "B")]).flatmap(
        lambda names: st.fixed_dictionaries(dict.fromkeys(names, memory_program))
    ),
    preemptions=st.sampled_from([0, 1, 2]),
)
@example(lines=twice(("PUT", "m", "<"), ("READ", "m")), preemptions=2)
@example(lines=twice(("COUNT",), ("COUNT",)), preemptions=2)
@example(lines=dict.fromkeys(("A", "A.2", "A.3"), (("GET", "y"), ("LOCKED", "z", "<"))), preemptions=1)
@example(
    lines={"A": (("HAND", "x"), ("HAND", "y"), ("GET", "x"), ("HANDED",), ("GET", "x"), ("HANDED",))}, preemptions=1
)
@example(  # whom a child tells has ended in one order, and not in the other
    lines={"A": (("GET", "x"), ("PUT", "m", "<")), "A.2": (("GET", "x"), ("READ", "m"))}
    | {"B": (("GET", "x"), ("HAND", "x"), ("GET", "x"), ("HANDED",))},
    preemptions=1,
)
def test_every_order_of_actors_that_share_memory(tiny: Tiny, lines: dict[str, Program], preemptions: int) -> None:
    same_outcomes(tiny, lines, Bounds(preemptions=preemptions, faults=0))


def test_steps_of_one_pod_commute_where_they_change_no_memory(tiny: Tiny) -> None:
    def two(between: tuple[Any, ...]) -> dict[str, Program]:
        return {f"A.{key}": (("SET", key, "1"), between, ("INCR", key), between, ("GET", key)) for key in "xy"}

    def runs(between: tuple[Any, ...], *, reduce: bool) -> int:
        return tiny.explore(two(between), replace(ALL, reduce=reduce)).run

    assert runs(("GET", "z"), reduce=True) <= runs(("GET", "z"), reduce=False) / 10
    assert runs(("PUT", "m", "<"), reduce=True) == runs(("PUT", "m", "<"), reduce=False)


class Three(Runner):
    """Runs the three parts of a subclass at once, as actors of one pod: none preempts another."""

    def absorb(self, user_id: str) -> list[Any]:
        for part in (self.first, self.second, self.third):
            self._env.runtime.spawn("part", part)
        return []

    def first(self) -> None:
        self._env.redis.get("z")

    def second(self) -> None: ...
    def third(self) -> None: ...


class Swaps(Three):
    """An empty list takes the place of an empty list: all is as it was, but for whom holds the old one."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.box: list[str] = []

    def first(self) -> None:
        super().first()
        self.box.append("first")

    def second(self) -> None:
        self._env.redis.get("x")
        taken, self.box = self.box, []
        self._env.runtime.sleep(1)
        self._env.redis.set("x", str(taken))

    def third(self) -> None:
        self._env.redis.get("y")
        held = self.box
        self._env.runtime.sleep(1)
        self._env.redis.set("y", str(held))


class Hides(Three):
    """What it counts, it leaves out where it is pickled."""

    count = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "count"}

    def second(self) -> None:
        self._env.redis.get("x")
        self.count += 1

    def third(self) -> None:
        self._env.redis.get("y")
        self._env.redis.set("y", self.count)


class Reseeds(Three):
    """Puts the pod's randomness back to where it was, and draws no number."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.start = env.rng.getstate()
        env.rng.random()

    def second(self) -> None:
        self._env.redis.get("x")
        self._env.rng.setstate(self.start)

    def third(self) -> None:
        self._env.redis.get("y")
        self._env.redis.set("y", str(self._env.rng.getstate()[1][-1]))


class Blames(Three):
    """An error that is there already is given a cause."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.error = ValueError()

    def second(self) -> None:
        self._env.redis.get("x")
        self.error.__cause__ = KeyError()

    def third(self) -> None:
        self._env.redis.get("y")
        self._env.redis.set("y", repr(self.error.__cause__))


class Sends(Three):
    """What is on its way to the memory agent is held by somebody else, too."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.parts = [{"text": "as it was"}]
        self.sent = ""

    def second(self) -> None:
        part = self.parts[0]
        self._env.redis.get("x")
        part["text"] = "changed"

    def third(self) -> None:
        self._env.memory.send("user", [self.parts.pop()])
        self._env.redis.set("y", str(self._env.memory._inner.batches()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", [Swaps, Hides, Reseeds, Blames, Sends])
def test_every_order_where_a_change_of_memory_is_hard_to_see(tiny: Tiny, target: type[Runner]) -> None:
    same_outcomes(tiny, {"A": ()}, Bounds(preemptions=0, faults=0), target=target)


class Returns(Three):
    """Goes on to change what it has returned."""

    def absorb(self, user_id: str) -> list[Any]:
        returned: list[Any] = []
        self._env.runtime.spawn("part", lambda: returned.append(self._env.redis.get("x")))
        return returned


def test_what_a_call_returned_stays_as_it_was(tiny: Tiny) -> None:
    (outcome,) = tiny.explore({"A": ()}, Bounds(preemptions=0, faults=0), target=Returns).outcomes
    assert ("A", "[]") in outcome[0]


def test_a_command_that_cannot_be_sent_is_the_targets_own_error(tiny: Tiny) -> None:
    (outcome,) = tiny.explore({"A": (("UNKNOWN", ("a", "tuple")),)}, Bounds(preemptions=0, faults=0)).outcomes
    assert any(said.startswith("DataError") for actor, *told in outcome[0] for said in told if actor == "A")


def test_frames_of_a_target_whose_folder_is_named_like_ours_are_seen() -> None:
    def held(box: list[int]) -> Iterator[None]:
        yield

    held.__code__ = held.__code__.replace(co_filename=f"{Path(heap.__file__).parents[1]}-targets/pod.py")
    box: list[int] = []
    waiting: Any = held(box)
    looks = heap.Heap()
    before = looks.look([], [waiting.gi_frame], [])
    box.append(1)
    assert looks.look([], [waiting.gi_frame], []) != before


def test_pods_that_wait_for_each_other_are_not_apart(tiny: Tiny) -> None:
    lines: dict[str, Program] = {"A": (("SLEEP", 2),), "B": (("SLEEP", 2),), "B.2": (("SLEEP", 1),)}
    same_outcomes(tiny, lines, Bounds(preemptions=0, faults=0), after={"B.2": "A"})


faults = st.sampled_from(
    [
        Kill(),
        Kill(pods=frozenset("A")),
        Pause(),
        ExpireKey(),
        ExpireKey(since="GET"),
        EarlyTimer(),
        LoseConnection(),
        LoseConnection(actions=(DROP_REPLY,)),
    ]
)


@settings(hypothesis_settings, max_examples=8)
@given(
    lines=programs(most=4, size=2, kinds=commands | waits | rare),
    fault=faults,
    preemptions=st.sampled_from([0, 1]),
    retries=st.sampled_from([0, 1]),
)
def test_every_order_with_one_fault(
    tiny: Tiny, lines: dict[str, Program], fault: Fault, preemptions: int, retries: int
) -> None:
    same_outcomes(tiny, lines, Bounds(preemptions=preemptions, faults=1), fault, retries=retries)


def test_an_error_among_a_transactions_replies_is_the_same_in_every_run(tiny: Tiny) -> None:
    lines: dict[str, Program] = {"A": (("SET", "y", "text"), ("CAS", "x", "y")), "B": (("GET", "y"),)}
    same_outcomes(tiny, lines, Bounds(preemptions=1, faults=0))
