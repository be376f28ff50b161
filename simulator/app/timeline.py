"""A counterexample as text: a line for each event, a column for each pod and for Redis; ▶ marks the deciding step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from podrace.simulator.history.events import Event, brief, write_history
from podrace.simulator.judge.findings import Finding, Judgement

DECIDING = "▶"
REDIS = "Redis"


def draw(events: Sequence[Event], *, width: int = 118, actor: str = "Pod") -> str:
    """The timeline as text of at most `width` columns."""
    pods = list(dict.fromkeys(event["pod"] for event in events if event["pod"] and event["type"] != "time"))
    pod_width = max(8, min(30, (width - 8) * 3 // 5 // max(1, len(pods)) - 2))
    redis_width = max(10, width - 8 - len(pods) * (pod_width + 2))
    last = REDIS if actor == "Pod" else ""
    head = [f"{'step':>4}  "] + [f"{f'{actor} {pod}':<{pod_width}}  " for pod in pods] + [last]
    drawn = ["".join(head).rstrip(), "─" * min(width, 8 + len(pods) * (pod_width + 2) + redis_width)]
    for event in events:
        number, mark = event["n"], DECIDING if event.get("deciding") else " "
        if not event["says"] and not event["redis"]:
            continue
        if not event["pod"]:
            lines = textwrap.wrap(f"── {event['says']} ──", max(20, width - 6))
            drawn.extend((f"{mark}{number:>3}  " if row == 0 else " " * 6) + line for row, line in enumerate(lines))
            continue
        says = f"{event['line']}: {event['says']}" if event["line"] else event["says"]
        left = textwrap.wrap(says, pod_width) or [""]
        right = textwrap.wrap(event["redis"], redis_width) or [""]
        for row in range(max(len(left), len(right))):
            cells = [(left[row] if row < len(left) and name == event["pod"] else "").ljust(pod_width) for name in pods]
            lead = f"{mark}{number:>3}" if row == 0 else "    "
            text = f"{lead}  " + "  ".join(cells) + "  " + (right[row] if row < len(right) else "")
            drawn.append(text.rstrip())
    return "\n".join(drawn)


def write(folder: Path, stem: str, events: Sequence[Event], sentence: str, more: str = "") -> None:
    """Write what shows a violation: as text, and as the history of which reports draw a picture."""
    text = f"{draw(events)}\n\n{sentence}\n{more}"
    (folder / f"{stem}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    write_history(folder / f"{stem}.history.jsonl", events)


def sentence(events: Sequence[Event], judgement: Judgement) -> str:
    """What went wrong first and, as far as the history proves it, why. Empty if nothing went wrong."""
    if not judgement.findings:
        return ""
    finding = judgement.findings[0]
    why = _why(events, finding)
    return finding.sentence + (f": {why}" if why else "") + "."


def _why(events: Sequence[Event], finding: Finding) -> str:
    """The reason, from the history only: which call raised, who sent it twice, who wrote the key last."""
    if finding.kind == "leaked":
        return _last_writer(events, finding.subject)
    if finding.kind == "stuck":
        raised = [event for event in events if event["type"] == "fail"]
        if raised:
            last = raised[-1]
            return f"{last['actor']} ended in {brief(last['error'])} (step {last['n']})"
        return ""
    if finding.kind not in ("duplicated", "lost"):
        return ""
    text = _text_of(events, finding.subject)
    sent = [event for event in events if text and _is_done(event) and text in event["what"]]
    if finding.kind == "duplicated" and len(sent) > 1:
        return "sent by " + " and ".join(f"{e['actor']} (step {e['n']})" for e in sent)
    if finding.kind == "lost" and sent:
        return f"{sent[0]['actor']} sent the message without it (step {sent[0]['n']})"
    died = [event for event in events if event["marks"] == "kill"]
    return f"pod {died[-1]['pod']} was killed (step {died[-1]['n']})" if finding.kind == "lost" and died else ""


def _text_of(events: Sequence[Event], subject: str) -> str:
    """The text of the message with this id, or of the one with this image, as it appears in a delivery."""
    for event in events:
        if event["type"] == "invoke" and event["method"] == "add_message":
            _, text, images, message_id = event["args"]
            if subject == message_id or subject in images:
                return repr(text)
    return ""


def _is_done(event: Event) -> bool:
    return event["type"] == "step" and event["kind"] == "service" and not event["failed"] and event["action"] == "go"


def _last_writer(events: Sequence[Event], key: str) -> str:
    """The last successful write that names the key."""
    reads = ("GET", "LRANGE", "MGET", "SCAN", "HGET", "HGETALL", "EXISTS", "TTL", "PTTL", "TYPE", "SMEMBERS", "ZRANGE")
    for event in reversed(events):
        if event["type"] == "step" and event["kind"] == "redis" and event["action"] != "drop-request":
            command = event["what"].split()
            if key in command and command[0] not in reads and "Error" not in event["reply"][:40]:
                return f"the last write there is {brief(event['what'])} by {event['actor']} (step {event['n']})"
    return ""
