"""A counterexample as text: it fits its width, marks the deciding step, and says in one sentence what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import NamedTarget, explore_cell
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.timeline import DECIDING, brief, draw, rows, sentence
from podrace.simulator.history.events import read_history
from podrace.simulator.judge.checks import HOLDS, Finding, Judgement
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

SHOWN = (
    ("timeout-overwrites-completion", "shared", "image-1", "read <failed>"),
    ("foreign-pod", "local", "image-1", "had no finished upload of it in its own memory"),
    ("crash-after-send", "shared", "message m1 was delivered 2 times", "sent by B"),
    ("trim-applied-twice", "shared", "message m2 was accepted and is nowhere", "the last write there is"),
    ("poison-message", "shared", "stood in its queue", "absorbing ends in ValueError"),
    ("crash-between-status-and-push", "shared", "key upload_status:", "left behind"),
    ("cleanup-while-resolving", "shared", "was told", "unknown"),
)


@pytest.mark.parametrize(("scenario", "target", "what", "why"), SHOWN, ids=[s for s, *_ in SHOWN])
def test_the_sentence_says_what_and_why_and_the_drawing_fits(
    run_server: Server, tmp_path: Path, scenario: str, target: str, what: str, why: str
) -> None:
    named = NamedTarget(target, f"podrace.reference.targets:{target}")
    cell = explore_cell(run_server, named, find(scenario), Bounds(preemptions=1), seed=7, folder=tmp_path)
    told = load(Path(str(cell.counterexample))).sentence
    assert what in told
    assert why in told
    assert told.endswith(".")
    assert "\n" not in told
    events = read_history(tmp_path / f"{target}-{scenario}.history.jsonl")
    marked = [number for number, event in enumerate(events) if event.get("deciding")]
    for width in (60, 80, 118):
        lines = draw(events, marked[0] if marked else None, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith(DECIDING) for line in lines) == len(marked)
        assert "Redis" in lines[0]
        assert len(lines) >= len(rows(events))
    text = (tmp_path / f"{target}-{scenario}.txt").read_text()
    assert text.endswith(f"\n\n{told}\n")


def step(actor: str, kind: str, what: str, *, action: str = "go", reply: str = "") -> dict[str, Any]:
    return {"type": "step", "actor": actor, "kind": kind, "what": what, "action": action, "reply": reply}


EVENTS: list[dict[str, Any]] = [
    {"type": "invoke", "actor": "A", "call": 1, "op": "add", "message": "m1", "text": "t", "images": ["image-1"]},
    step("A", "redis", "SET k v", action="drop-request"),
    step("A", "redis", "SET k v", action="drop-reply", reply="broken"),
    step("A.timeout-1", "timer", "timer of 10 s fires", action="early"),
    step("A.upload-1", "gemini", "upload image-1.png", action="hang"),
    {"type": "died", "actor": "A.upload-1", "error": "ValueError: no"},
    {"type": "info", "call": 1, "error": "ConnectionError: broken"},
    {"type": "fault", "actor": "B", "what": "killed"},
    {"type": "drain", "stage": "soon", "batches": 0},
    {"type": "final", "ledger": [], "images": {}, "keys": []},
]


def test_every_kind_of_event_has_its_words() -> None:
    assert [(pod, does, redis) for _, pod, does, redis in rows(EVENTS)] == [
        ("A", "add_message m1 with image-1", ""),
        ("A", "SET ✗ request lost", ""),
        ("A", "SET ✗ reply lost", "SET k v"),
        ("A", "timeout-1: timer of 10 s fires early", ""),
        ("A", "upload-1: upload image-1.png ✗ hang", ""),
        ("A", "upload-1: ends in ValueError: no", ""),
        ("A", "→ nobody knows: ConnectionError: broken", ""),
        ("B", "✗ killed", ""),
        ("", "everything has settled; the pods that are left absorb what waits", ""),
    ]


@pytest.mark.parametrize("number", range(8))
def test_the_mark_stands_at_the_deciding_step(number: int) -> None:
    marked = [line for line in draw(EVENTS, number).splitlines() if line.startswith(DECIDING)]
    assert [line[1:4].strip() for line in marked] == [str(number)]
    assert DECIDING not in draw(EVENTS, None)


def test_ids_statuses_and_messages_are_cut_short() -> None:
    uuid = "0123abcd-0123-4123-8123-0123456789ab"
    assert brief(f"GET upload_status:{uuid}") == "GET upload_status:0123…"
    assert brief('{"status": "failed", "filename": "x", "timestamp": 1.5, "result": null}') == "<failed>"
    assert brief('{"message_id": "m1", "text": "t", "images": [], "timestamp": 1.5}') == "<m1>"


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("lost", "image-1"),
        ("lost", "m1"),
        ("duplicated", "m1"),
        ("misreported", "image-1"),
        ("stuck", "m1"),
        ("leaked", "k"),
    ],
)
def test_every_kind_of_finding_ends_in_one_sentence(kind: str, subject: str) -> None:
    told = sentence(EVENTS, Judgement(1, 1, 0, (Finding(kind, subject, f"{subject} is {kind}"),)))
    assert told.startswith(f"{subject} is {kind}")
    assert told.endswith(".")


def test_what_holds_needs_no_sentence() -> None:
    judgement = Judgement(1, 1, 2, ())
    assert judgement.verdict == HOLDS
    assert sentence(EVENTS, judgement) == ""
