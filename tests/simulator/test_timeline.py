"""A counterexample as text: it fits its width, marks the deciding step, and says in one sentence what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import explore_cell
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.names import NamedTarget
from podrace.simulator.app.timeline import DECIDING, draw, sentence
from podrace.simulator.history.events import Event, Wording, read_history, readable
from podrace.simulator.judge.findings import Finding, Judgement
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server
from podrace.simulator.world.steps import Step

SHOWN = (
    ("timeout-overwrites-completion", "shared", "image-1", "sent the message without it", ""),
    ("foreign-pod", "local", "image-1", "sent the message without it", ""),
    ("crash-after-send", "shared", "message m1 was delivered 2 times", "sent by B", "✗ killed"),
    ("trim-applied-twice", "shared", "message m2 was accepted and is nowhere", "", "LTRIM ✗ reply lost"),
    ("poison-message", "shared", "stands in its queue", "ended in ValueError", ""),
    ("crash-between-status-and-push", "shared", "key upload_status:", "the last write there is", "✗ killed"),
)


@pytest.mark.parametrize(("scenario", "target", "what", "why", "decides"), SHOWN, ids=[row[0] for row in SHOWN])
def test_the_sentence_says_what_and_why_and_the_drawing_fits(
    run_server: Server, tmp_path: Path, scenario: str, target: str, what: str, why: str, decides: str
) -> None:
    cell = explore_cell(
        run_server,
        NamedTarget(target, f"podrace.reference.targets:{target}"),
        find(scenario),
        Bounds(preemptions=1),
        seed=7,
        folder=tmp_path,
    )
    told = load(Path(str(cell.counterexample))).sentence
    assert cell.sentence == told
    assert what in told
    assert why in told
    assert told.endswith(".")
    assert "\n" not in told
    events = read_history(tmp_path / f"{target}-{scenario}.history.jsonl")
    marked = [number for number, event in enumerate(events) if event.get("deciding")]
    if decides:
        assert [decides in events[number]["says"] for number in marked] == [True]
    for width in (60, 80, 118):
        lines = draw(events, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith(DECIDING) for line in lines) == len(marked)
        assert "Redis" in lines[0]
    text = (tmp_path / f"{target}-{scenario}.txt").read_text()
    assert text.startswith(draw(events))
    assert told in text.splitlines()


def step(actor: str, kind: str, *args: Any, action: str = "go", reply: Any = None, **more: Any) -> Event:
    return {"type": "step", "actor": actor, "step": Step(actor, kind, args), "action": action, "reply": reply, **more}


def sends(actor: str, says: str = "send to alice: 't'", *, failed: bool = False, action: str = "go") -> Event:
    return step(actor, "service", "memory", "send", (), {}, says=says, failed=failed, action=action)


INVOKE = {"type": "invoke", "actor": "A", "call": 0, "name": "m1", "method": "add_message"}
ADD = INVOKE | {"args": ("alice", "t", ["image-1"], "m1")}
EVENTS: list[Event] = readable(
    [
        ADD,
        step("A", "redis", "SET", "run:k", "v", action="drop-request"),
        step("A", "redis", "SET", "run:k", "v", action="drop-reply"),
        step("A.upload-1", "service", "gemini", "upload", (), {}, says="upload image-1", failed=True, action="hang"),
        {"type": "died", "actor": "A.upload-1", "error": "ValueError: no"},
        {"type": "info", "actor": "A", "call": 0, "error": "ConnectionError: broken"},
        {"type": "time", "passes_s": 30.0, "gone": ["run:k"], "fault": True},
        {"type": "fault", "actor": "B", "what": "killed"},
        {"type": "rest", "stage": "begins"},
        {"type": "rest", "stage": "over"},
    ],
    Wording("run:"),
)


@pytest.mark.parametrize("number", range(len(EVENTS)))
def test_the_mark_stands_at_the_deciding_step(number: int) -> None:
    events = [event | {"deciding": event["n"] == number} for event in EVENTS]
    marked = [line for line in draw(events).splitlines() if line.startswith(DECIDING)]
    assert [line[1:4].strip() for line in marked] == [str(number)]
    assert DECIDING not in draw(EVENTS)


def test_every_pod_has_a_column_and_redis_the_last() -> None:
    head, _, *lines = draw(EVENTS, width=118).splitlines()
    assert head.index("Pod A") < head.index("Pod B") < head.index("Redis")
    killed = next(line for line in lines if "killed" in line)
    assert killed.index("✗") == head.index("Pod B")
    lost = next(line for line in lines if "request lost" in line)
    assert lost.index("SET k v (never arrived)") == head.index("Redis")
    asides = [line for line in lines if "──" in line]
    assert len(asides) == 3  # one for time, and two for the rest phase
    assert "30 s; over: k" in asides[0]


def test_an_event_that_shows_nothing_takes_no_line() -> None:
    silent = {"n": 9, "type": "step", "pod": "A", "line": "", "says": "", "redis": "", "marks": ""}
    assert draw([*EVENTS, silent]) == draw(EVENTS)


# --- why: only what the history proves ---


def why(kind: str, subject: str, *raw: Event) -> str:
    """The reason in the sentence, which follows what went wrong."""
    told = sentence(readable(raw, Wording("run:")), Judgement((Finding(kind, subject, "It is wrong"),)))
    assert told.startswith("It is wrong")
    assert told.endswith(".")
    return told.removeprefix("It is wrong").removeprefix(": ").removesuffix(".")


def test_a_run_that_holds_has_no_sentence() -> None:
    assert sentence(EVENTS, Judgement(())) == ""


@pytest.mark.parametrize("kind", ["lost", "duplicated", "misreported", "stuck", "leaked"])
def test_no_reason_is_given_without_a_proof(kind: str) -> None:
    assert why(kind, "m1", ADD) == ""


@pytest.mark.parametrize("subject", ["m1", "image-1"])
def test_the_reason_for_a_duplicate_names_both_senders(subject: str) -> None:
    once = [ADD, sends("B"), sends("C", failed=True), sends("D", action="drop-reply"), sends("E", "send to alice: 'x'")]
    assert why("duplicated", subject, *once) == ""
    assert why("duplicated", subject, *once, sends("C")) == "sent by B (step 1) and C (step 5)"


def test_a_lost_image_was_left_out_by_the_first_that_sent_its_message() -> None:
    assert why("lost", "image-1", ADD, sends("B"), sends("C")) == "B sent the message without it (step 1)"


def test_a_lost_message_went_with_the_pod_that_was_killed() -> None:
    killed = {"type": "fault", "actor": "A", "what": "killed"}
    assert why("lost", "m1", ADD, killed) == "pod A was killed (step 1)"


def test_what_is_stuck_names_the_call_that_raised_last() -> None:
    raised = [{"type": "fail", "actor": pod, "call": 0, "error": f"ValueError: {pod}"} for pod in "BC"]
    assert why("stuck", "m1", ADD, *raised) == "C ended in ValueError: C (step 2)"


def test_a_key_that_leaked_names_its_last_writer_whose_write_succeeded() -> None:
    writes = [
        step("A", "redis", "SET", "run:k", "v", reply=True),
        step("B", "redis", "GET", "run:k", reply=b"v"),
        step("B", "redis", "SET", "run:k2", "v", reply=True),
        step("C", "redis", "LPUSH", "run:k", "v", reply="ResponseError: wrong kind"),
        step("D", "redis", "SET", "run:k", "w", action="drop-request"),
    ]
    assert why("leaked", "k", ADD, *writes) == "the last write there is SET k v by A (step 1)"
