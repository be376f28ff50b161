"""One schedule from its first call to the last key: defaults, drains, and what stands in the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.errors import TargetError
from podrace.simulator.judge.checks import judge
from podrace.simulator.scenarios.catalogue import Absorb, Add, Call, Scenario
from podrace.simulator.scenarios.faults import KILL, PAUSE
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.play import Play
from podrace.simulator.search.schedule import follow
from podrace.simulator.servers.connection import Server
from podrace.simulator.target import load_target

Events = list[dict[str, Any]]
Run = Callable[..., Events]


@pytest.fixture
def run(
    run_server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Events]]:
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def run_one(target: str, decisions: Any = (), retries: int = 0, **lines: tuple[Call, ...]) -> Events:
        scenario = Scenario("tiny", 0, lines, "")
        with InlineLab(run_server, load_target(target), scenario, seed=7) as lab:
            play: Play = lab.play(retries)
            try:
                events = play.run(follow(tuple(decisions)))
            finally:
                lab.finish(play)
            assert lab.probe.under("mirix:") == []
            return lab.readable(events)

    return run_one


CORRECT = "planted.correct:correct"
SHARED, LOCAL = "podrace.reference.targets:shared", "podrace.reference.targets:local"
ADD, ABSORB = Add("m1"), Absorb("absorb", after=("m1",))


def told(events: Events) -> list[str]:
    return [str(event.get("kind") or event["type"]) for event in events]


def test_by_default_every_call_runs_to_its_end(run: Run) -> None:
    events = run(CORRECT, A=(ADD,), B=(ABSORB,))
    assert told(events) == ["invoke", "redis", "ok", "invoke", *["redis", "memory", "redis", "redis"], "ok", "final"]
    assert [event["n"] for event in events] == list(range(len(events)))
    assert events[0] | {"type": "invoke", "message": "m1", "op": "add"} == events[0]
    assert events[-2]["result"] == 1
    assert events[-1] == {
        "n": 9,
        "type": "final",
        "ledger": [("alice", [{"type": "text", "text": "text of m1"}])],
        "images": {},
        "keys": [],
    }


def test_what_was_not_absorbed_is_drained_by_a_pod_that_is_left(run: Run) -> None:
    events = run(CORRECT, [("A", "go"), ("A", "go"), ("A", KILL)], A=(ADD,), B=(Add("m2", user="bob"),))
    drained = [event for event in events if event["type"] == "drain"]
    assert [event["stage"] for event in drained] == ["soon"]
    assert {event["actor"].partition(".")[0] for event in events if event.get("op") == "absorb"} == {"B"}
    assert len(events[-1]["ledger"]) == 2


def test_where_all_have_died_another_pod_comes(run: Run) -> None:
    events = run(CORRECT, [("A", "go"), ("A", "go"), ("A", KILL)], A=(ADD, Add("m2")))
    assert [event["actor"] for event in events if event.get("op") == "absorb"] == ["Z.soon-1"]
    assert len(events[-1]["ledger"]) == 1


def test_a_dead_pod_takes_no_step_and_its_call_stays_open(run: Run) -> None:
    events = run(CORRECT, [("A", "go"), ("A", KILL)], A=(ADD, Add("m2")))
    assert told(events) == ["invoke", "fault", "final"]


def test_a_paused_pod_goes_on_when_the_others_are_done(run: Run) -> None:
    lines: dict[str, tuple[Call, ...]] = {"A": (ADD, Add("m2")), "B": (ABSORB,)}
    events = run(CORRECT, [("A", "go"), ("A", "go"), ("A", PAUSE)], **lines)
    what = [event["what"] for event in events if event["type"] == "fault"]
    assert what == ["paused for 60 s; meanwhile expires: nothing", "goes on"]
    order = [(event["actor"], event.get("op")) for event in events if event["type"] == "invoke"]
    assert order[:3] == [("A", "add"), ("B", "absorb"), ("A", "add")]


def test_a_pause_lets_leases_expire_and_everybodys_clock_go_on(run: Run) -> None:
    lines: dict[str, tuple[Call, ...]] = {"A": (ADD,), "B": (ABSORB,), "C": (Add("m2", after=("absorb",)),)}
    events = run(SHARED, [*[("A", "go")] * 2, *[("B", "go")] * 4, ("B", PAUSE)], **lines)
    assert any("meanwhile expires: lock:alice" in event.get("what", "") for event in events)


def test_an_insistent_caller_calls_again_with_the_same_id(run: Run) -> None:
    events = run(CORRECT, [("A", "go"), ("A", "drop-reply")], A=(Add("m1", insist=True),))
    assert [event["type"] for event in events if event.get("call") in (1, 2)] == ["invoke", "info", "invoke", "ok"]
    assert [event["message"] for event in events if event.get("op") == "add"] == ["m1", "m1"]
    assert len(events[-1]["ledger"]) == 1


def test_one_that_does_not_insist_leaves_it_open(run: Run) -> None:
    events = run(CORRECT, [("A", "go"), ("A", "drop-reply")], A=(ADD,))
    assert [event["type"] for event in events if event.get("call") == 1] == ["invoke", "info"]
    assert judge(events).accepted == 0


def test_a_timer_fires_late_by_default_and_early_when_told(run: Run) -> None:
    lines: dict[str, tuple[Call, ...]] = {"A": (Add("m1", images=("image-1",)),)}
    late = [event["kind"] for event in run(LOCAL, **lines) if event["type"] == "step"]
    assert late.index("timer") > late.index("gemini")
    early = run(LOCAL, [*[("A", "go")] * 2, ("A.timeout-1", "early")], **lines)
    kinds = [event["kind"] for event in early if event["type"] == "step"]
    assert kinds.index("timer") < kinds.index("gemini")


def test_what_is_left_for_longer_than_a_lease_stands_in_the_final_event(run: Run) -> None:
    events = run("planted.broken:Leaks", A=(ADD,), B=(ABSORB,))
    assert events[-1]["keys"] == ['seen:["alice", "m1"]']
    assert [finding.kind for finding in judge(events).findings] == ["leaked"]


def test_what_still_waits_is_held(run: Run) -> None:
    events = run("planted.broken:NoLease", [*[("A", "go")] * 2, *[("B", "go")] * 2, ("B", KILL)], A=(ADD,), B=(ABSORB,))
    assert events[-1]["held"] == ["text of m1"]
    assert [event["stage"] for event in events if event["type"] == "drain"] == ["soon", "lease", "ttl"]
    assert [finding.kind for finding in judge(events).findings] == ["stuck"]


def test_no_run_reads_the_folder_of_its_images(run: Run) -> None:
    events = run(LOCAL, A=(Add("m1", images=("image-1",)),))
    assert "podrace-images-" not in str(events)
    assert "image-1.png" in str(events)


@pytest.mark.parametrize("decisions", [[("Q", "go")], [("A", "go"), ("B", "go")]])
def test_a_decision_about_nobody_is_the_targets_error(run: Run, decisions: Any) -> None:
    with pytest.raises(TargetError, match="is not where the schedule has it"):
        run(CORRECT, decisions, A=(ADD,), B=(ABSORB,))


def test_what_touches_everything_is_cleared_away_too(run: Run) -> None:
    events = run("planted.unfit:OddCommand", A=(ADD,), B=(ABSORB,))
    assert events[-1]["type"] == "final"


def test_a_message_named_as_missing_is_not_waited_for(run: Run) -> None:
    poison = replace(ADD, text="a poison message")
    events = run(CORRECT, A=(poison,), B=(ABSORB,))
    assert not any(event["type"] == "drain" for event in events)
    assert [part["type"] for _, parts in events[-1]["ledger"] for part in parts] == ["missing_message"]
    assert judge(events).findings == ()
