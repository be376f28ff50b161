"""One schedule from its first call to rest: defaults, strikes, the clock, and what is in the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.errors import TargetError
from podrace.simulator.history.events import Event, Wording, readable
from podrace.simulator.judge.findings import Judgement
from podrace.simulator.judge.run import CallRecord, Run
from podrace.simulator.scenarios.model import Call, Ref, Scenario, Workload
from podrace.simulator.scenarios.uploads import UPLOADS, absorb, add
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.record import judge
from podrace.simulator.search.schedule import follow
from podrace.simulator.servers.connection import Server


@dataclass(frozen=True)
class Played:
    run: Run
    events: list[Event]
    judgement: Judgement

    @property
    def told(self) -> list[str]:
        """The events until the run comes to rest, in one word each."""
        words = [str(event.get("kind") or event["type"]) for event in self.events]
        return words[: words.index("rest")]

    @property
    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.judgement.findings]

    def call(self, name: str) -> CallRecord:
        return next(call for call in self.run.calls if call.name == name)

    def ends(self, name: str) -> list[str]:
        """How the calls of that name ended, in order."""
        return [call.type for call in self.run.calls if call.name == name]

    def at_rest(self) -> set[str]:
        """The pods that were asked to bring the run to rest."""
        return {call.pod for call in self.run.calls if call.name.startswith("rest-")}

    def delivered(self) -> list[list[Any]]:
        return [parts for _, _, parts in self.run.services["memory"].batches()]


Play = Callable[..., Played]


@pytest.fixture
def play(run_server: Server, monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def play_one(
        target: str, decisions: Any = (), *, retries: int = 0, workload: Workload = UPLOADS, **lines: tuple[Call, ...]
    ) -> Played:
        scenario = Scenario(
            "tiny", {actor.replace("_", "."): calls for actor, calls in lines.items()}, workload=workload
        )
        with InlineLab(run_server, target, scenario, seed=7) as lab:
            one = lab.play(retries)
            try:
                run = one.run(follow(tuple(_decision(decision) for decision in decisions)))
                judgement = judge(lab.scenario, run)
                assert isinstance(run.left, list)  # it was read before the keys were deleted
                events = readable(one.events, Wording(run_server.prefix, f"{lab.folder}/", lab.table.texts))
            finally:
                lab.finish(one)
            assert lab.probe.under("mirix:") == []
            return Played(run, events, judgement)

    return play_one


def _decision(text: str) -> Any:
    from podrace.simulator.search.schedule import Decision

    actor, _, action = text.partition(" ")
    return Decision(actor, action or "go")


@pytest.fixture
def small(play: Play) -> Play:
    """Plays calls of a pod that only reads and writes keys."""

    def play_small(*decisions: str, target: str = "Keys", **lines: Any) -> Played:
        return play(f"planted.small:{target}", decisions, workload=Workload(keeps=["*"]), **lines)

    return play_small


CORRECT = "planted.correct:correct"
LOCAL = "podrace.reference.targets:local"
ADD, ABSORB = add("m1"), absorb("absorb", after=("m1",))


# --- order ---


def test_by_default_every_call_runs_to_its_end(play: Play) -> None:
    played = play(CORRECT, A=(ADD,), B=(ABSORB,))
    assert played.told == ["invoke", "redis", "ok", "invoke", "redis", "service", "redis", "redis", "ok"]
    assert [event["n"] for event in played.events] == list(range(len(played.events)))
    assert played.call("absorb").value == 1
    assert played.call("m1").before(played.call("absorb"))
    assert played.delivered() == [[{"type": "text", "text": "text of m1"}]]
    assert played.judgement.findings == ()
    assert played.judgement.counts["delivered"] == 1


def test_a_call_waits_for_the_calls_that_come_before_it(small: Play) -> None:
    played = small("B", B=(Call("first", "put", ("x", 1)),), A=(Call("second", "get", ("x",), after=("first",)),))
    assert played.call("first").before(played.call("second"))
    assert played.call("second").value == "1"


def test_an_argument_can_be_what_an_earlier_call_returned(small: Play) -> None:
    calls = (
        Call("clocks", "clocks"),
        Call("whole", "put", ("x", Ref("text"))),
        Call("item", "put", ("y", Ref("clocks", 0))),
    )
    played = small(A=(Call("text", "put", ("z", "some text")), *calls))
    assert played.run.redis["x"] == "some text"
    assert float(played.run.redis["y"]) == played.call("clocks").value[0]


def test_an_argument_from_a_call_that_failed_is_none(small: Play) -> None:
    played = small(A=(Call("refused", "refuse"), Call("next", "get", (Ref("refused", 0),))))
    assert played.call("refused").error == "LookupError: not today"
    assert played.ends("next") == ["fail"]  # there is no key None


@pytest.mark.parametrize("decisions", [["Q"], ["A", "B"]])
def test_a_decision_that_no_actor_can_follow_is_the_targets_error(play: Play, decisions: list[str]) -> None:
    with pytest.raises(TargetError, match="is not where the schedule has it"):
        play(CORRECT, decisions, A=(ADD,), B=(ABSORB,))


# --- rest ---


def test_a_surviving_pod_absorbs_what_is_left_at_the_end(play: Play) -> None:
    played = play(CORRECT, ["A", "A", "A kill"], A=(ADD,), B=(add("m2", user="bob"),))
    assert played.at_rest() == {"B"}
    assert len(played.delivered()) == 2


def test_every_pod_is_asked_for_every_user_that_was_named(play: Play) -> None:
    played = play(CORRECT, A=(ADD,), B=(add("m2", user="bob"), absorb("nobody", "carol")))
    asked = {(call.pod, call.args[0]) for call in played.run.calls if call.name.startswith("rest-")}
    assert asked == {(pod, user) for pod in "AB" for user in ("alice", "bob", "carol")}


def test_if_all_pods_have_died_a_new_pod_absorbs_what_is_left(play: Play) -> None:
    played = play(CORRECT, ["A", "A", "A kill"], A=(ADD, add("m2")))
    assert played.at_rest() == {"next"}
    assert len(played.delivered()) == 1


def test_the_new_pod_gets_an_unused_name(play: Play) -> None:
    played = play(CORRECT, ["next", "next", "next kill"], next=(ADD,))
    assert played.at_rest() == {"next-one"}


def test_a_loop_that_never_ends_does_not_prevent_a_verdict(small: Play) -> None:
    played = small(A=(Call("beat", "beat"), Call("put", "put", ("x", 1))))
    assert played.ends("put") == ["ok"]
    assert played.run.redis["x"] == "1"
    assert int(played.run.redis["beats"]) >= 1
    assert played.run.waits == {}


def test_a_message_named_as_missing_is_not_waited_for(play: Play) -> None:
    played = play(CORRECT, A=(add("m1", text="a poison message"),), B=(ABSORB,))
    assert [part["type"] for parts in played.delivered() for part in parts] == ["missing_message"]
    assert played.judgement.findings == ()
    assert sum(event["passes_s"] for event in played.events if event["type"] == "time") == 60


# --- kill ---


def test_a_dead_pod_takes_no_step_and_its_call_stays_open(play: Play) -> None:
    played = play(CORRECT, ["A", "A kill"], A=(ADD, add("m2")))
    assert played.told == ["invoke", "fault"]
    assert played.ends("m1") == ["open"]
    assert played.ends("m2") == []
    assert played.run.struck == 1


def test_a_pod_that_starts_again_has_forgotten_all_and_draws_other_numbers(small: Play) -> None:
    calls = (Call("count", "count"), Call("draw", "draw"), Call("get", "get", ("x",)))
    again = (Call("count-again", "count"), Call("draw-again", "draw"))
    played = small("A", "A", "A", "A kill and restart", A=(*calls, *again))
    assert played.ends("get") == ["info"]
    assert (played.call("count").value, played.call("count-again").value) == (1, 1)
    assert played.call("draw").value != played.call("draw-again").value


def test_pods_share_no_state_of_their_classes(small: Play) -> None:
    played = small(target="Shared", A=(Call("a", "count"),), B=(Call("b", "count"), Call("b2", "count")))
    assert [played.call(name).value for name in ("a", "b", "b2")] == [1, 1, 2]


# --- lost connections ---


def test_an_insistent_caller_calls_again_a_second_later_with_the_same_id(play: Play) -> None:
    played = play(CORRECT, ["A", "A drop-reply"], A=(add("m1", insist=True),))
    assert played.ends("m1") == ["info", "ok"]
    assert {call.args[3] for call in played.run.calls if call.name == "m1"} == {"m1"}
    assert next(event["passes_s"] for event in played.events if event["type"] == "time") == 1
    assert len(played.delivered()) == 1


def test_a_caller_that_does_not_insist_leaves_its_call_open(play: Play) -> None:
    played = play(CORRECT, ["A", "A drop-reply"], A=(ADD,))
    assert played.ends("m1") == ["info"]
    assert played.judgement.counts["accepted"] == 0


@pytest.mark.parametrize(("action", "held"), [("drop-request", None), ("drop-reply", "1")])
def test_a_call_that_raises_its_own_error_after_a_broken_connection_stays_open(
    small: Play, action: str, held: str | None
) -> None:
    played = small("A", f"A {action}", A=(Call("put", "own_error", ("x",)),))
    assert (played.ends("put"), played.call("put").error) == (["info"], "LookupError: not today")
    assert played.run.redis.get("x") == held


def test_a_call_that_raises_without_a_broken_connection_has_failed(small: Play) -> None:
    assert small(A=(Call("refused", "refuse"),)).ends("refused") == ["fail"]


# --- time ---


def test_time_passes_for_every_pod_and_the_server_alike(small: Play) -> None:
    at_first, later = Call("a", "clocks"), Call("b", "clocks", after=("c",))
    played = small(A=(at_first,), B=(Call("c", "sleep", (5.5,), after=("a",)), later))
    (now_a, server_a), (now_b, server_b) = played.call("a").value, played.call("b").value
    assert now_a == server_a
    assert now_b == server_b == now_a + 5.5
    assert played.call("c").value == 5.5


def test_a_key_is_gone_when_its_time_to_live_is_over(small: Play) -> None:
    calls = (Call("put", "put", ("x", 1, 30)), Call("lives", "lives_s", ("x",)), Call("get", "get", ("x",)))
    played = small("A", "A", "clock until 10000000", A=calls)
    assert (played.call("lives").value, played.call("get").value) == (20, "1")
    played = small("A", "A", "clock until 30000000", A=calls)
    assert (played.call("lives").value, played.call("get").value) == (-2, None)
    (passed,) = [event for event in played.events if event["type"] == "time" and event["fault"]]
    assert (passed["passes_s"], passed["gone"]) == (30, ["x"])


def test_a_key_that_lives_longer_never_goes_before_one_that_lives_shorter(small: Play) -> None:
    calls = (Call("long", "put", ("long", 1, 172800)), Call("short", "put", ("short", 1, 86400)))
    played = small("A", "A", "A", "A", "clock until 86400000000", A=(*calls, Call("get", "get", ("long",))))
    assert played.call("get").value == "1"
    assert "short" not in played.run.redis


def test_a_timer_fires_late_by_default_and_early_when_told(play: Play) -> None:
    line = (add("m1", ["image-1"]),)
    late = [event["kind"] for event in play(LOCAL, A=line).events if event["type"] == "step"]
    assert "timer" not in late or late.index("timer") > late.index("service")
    early = play(LOCAL, ["A", "A", "clock until 30000000", "A.timeout-1"], A=line)
    kinds = [event["kind"] for event in early.events if event["type"] == "step"]
    assert kinds.index("timer") < kinds.index("service")


# --- waiting ---


def test_a_command_that_blocks_is_woken_by_what_another_writes(small: Play) -> None:
    played = small("A", "A", A=(Call("pop", "pop", ("list",)),), B=(Call("push", "push", ("list", "text")),))
    assert played.call("pop").value == "text"
    assert played.call("push").began < (played.call("pop").ended or 0)


def test_a_blocking_command_that_nobody_wakes_is_stuck(small: Play) -> None:
    played = small(A=(Call("pop", "pop", ("list",)),))
    assert played.ends("pop") == ["open"]
    assert played.kinds == ["stuck"]
    assert played.run.waits["pop"].startswith("BLPOP")


def test_two_locks_taken_in_two_orders_are_stuck(small: Play) -> None:
    """One holds the first lock, the other the second, and each waits for the other's."""
    line = {"A": (Call("one", "one_way"),), "A_2": (Call("other", "other_way"),)}
    assert small(**line).judgement.findings == ()
    played = small("A", "A.2", "A", **line)
    assert played.kinds == ["stuck", "stuck"]
    assert "a lock that A.2 holds" in played.run.waits["one"]
    assert "a lock that A holds" in played.run.waits["other"]


# --- what is left ---


def test_a_run_holds_what_is_left_in_keys_of_every_kind(small: Play) -> None:
    played = small(A=(Call("fill", "fill"),))
    assert played.run.redis == {"text": "one", "list": ["b", "a"], "set": ["a", "b"], "hash": {"field": "value"}}


def test_a_key_that_is_left_is_leaked_where_it_may_not_stay(play: Play) -> None:
    played = play(
        "planted.small:Keys",
        workload=Workload(keeps=["kept:*"]),
        A=(Call("a", "put", ("kept:a", 1)), Call("b", "put", ("b", 1))),
    )
    assert [(finding.kind, finding.subject) for finding in played.judgement.findings] == [("leaked", "b")]


def test_a_key_with_a_time_to_live_leaks_only_where_it_lingers(play: Play) -> None:
    calls = (Call("put", "put", ("x", 1, 3600)),)
    assert play("planted.small:Keys", workload=Workload(), A=calls).kinds == []
    assert play("planted.small:Keys", workload=Workload(lingers_s=60), A=calls).kinds == ["leaked"]


def test_a_key_of_uploads_that_stays_longer_than_a_lease_is_leaked(play: Play) -> None:
    played = play("planted.broken:Leaks", A=(ADD,), B=(ABSORB,))
    assert [one.key for one in played.run.left] == ['seen:["alice", "m1"]']
    assert played.kinds == ["leaked"]


def test_a_message_that_waits_however_much_time_passes_is_stuck(play: Play) -> None:
    played = play("planted.broken:NoLease", ["A", "A", "B", "B", "B kill"], A=(ADD,), B=(ABSORB,))
    assert played.kinds == ["stuck"]
    assert sum(event["passes_s"] for event in played.events if event["type"] == "time") > 400 * 24 * 3600


def test_events_do_not_contain_the_folder_of_the_images(play: Play) -> None:
    played = play(LOCAL, A=(add("m1", ["image-1"]),))
    assert "podrace-images-" not in str(played.events)
    assert "image-1.png" in str(played.events)


def test_a_command_that_touches_everything_disturbs_no_later_play(play: Play) -> None:
    played = play("planted.unfit:OddCommand", A=(ADD,), B=(ABSORB,))
    assert len(played.delivered()) == 1


def test_a_command_that_blocks_gives_up_when_its_time_is_over(small: Play) -> None:
    played = small(A=(Call("pop", "pop", ("list", 5)), Call("clocks", "clocks")), B=(Call("now", "clocks"),))
    assert (played.ends("pop"), played.call("pop").value) == (["ok"], None)
    assert played.call("clocks").value[0] == played.call("now").value[0] + 5
