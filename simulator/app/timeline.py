"""A counterexample as text: a line a step, a column a pod and one for Redis, the deciding step marked."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from podrace.simulator.history.events import Event
from podrace.simulator.judge.checks import Finding, Judgement

DECIDING = "▶"
REDIS = "Redis"

_UUID = re.compile(r"([0-9a-f]{4})[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STATUS = re.compile(r'\{"status": ?"(\w+)".*?"result": ?(?:null|\{.*?\})\}')
_MESSAGE = re.compile(r'\{"message_id": "([^"]*)".*?"timestamp": [\d.]+\}')


def brief(text: str) -> str:
    """A command or reply in few characters: ids cut short, a status or a message by its name."""
    text = _UUID.sub(r"\1…", text)
    text = _STATUS.sub(r"<\1>", text)
    return _MESSAGE.sub(r"<\1>", text)


def rows(events: Sequence[Event]) -> list[tuple[int, str, str, str]]:
    """(number of the event, pod, what the pod does, what Redis does) for each event worth a line.

    `pod` is empty for what concerns all.
    """
    calls = {event["call"]: event for event in events if event["type"] == "invoke"}
    found = []
    for number, event in enumerate(events):
        kind = event["type"]
        actor = event.get("actor", "")
        pod, _, line = actor.partition(".")
        says = f"{line}: " if line else ""
        if kind == "invoke":
            found.append((number, pod, says + _call(event), ""))
        elif kind in ("ok", "fail", "info"):
            call = calls[event["call"]]
            pod, _, line = call["actor"].partition(".")
            found.append((number, pod, (f"{line}: " if line else "") + "→ " + _ended(call, event), ""))
        elif kind == "step":
            found.append((number, pod, says + _did(event), _redis(event)))
        elif kind == "fault":
            found.append((number, pod, f"✗ {brief(event['what'])}", ""))
        elif kind == "died":
            found.append((number, pod, f"{says}ends in {brief(event['error'])}", ""))
        elif kind == "drain":
            found.append((number, "", _STAGES[event["stage"]], ""))
    return found


_STAGES = {
    "soon": "everything has settled; the pods that are left absorb what waits",
    "lease": "a minute passes: every lease and every lock is over; once more",
    "ttl": "a year passes: every time to live is over; once more",
}


def _call(event: Event) -> str:
    if event["op"] == "add":
        images = ", ".join(event["images"])
        return f"add_message {event['message']}" + (f" with {images}" if images else "")
    return f"absorb {event['user']!r}" if event["op"] == "absorb" else f"upload_status of {event['image']}"


def _ended(call: Event, event: Event) -> str:
    if event["type"] != "ok":
        return f"{'refused' if event['type'] == 'fail' else 'nobody knows'}: {brief(event['error'])}"
    if call["op"] == "add":
        return "accepted"
    return f"{event['result']} delivered" if call["op"] == "absorb" else str(event["result"]["status"])


def _did(event: Event) -> str:
    lost = {"drop-request": " ✗ request lost", "drop-reply": " ✗ reply lost"}.get(event["action"], "")
    if event["kind"] == "redis":
        return str(event["what"]).split(" ", 1)[0] + lost
    if event["kind"] == "timer":
        return str(event["what"]) + (" early" if event["action"] == "early" else "")
    if event["kind"] == "gemini":
        failed = "" if event["action"] == "go" else f" ✗ {event['action']}"
        return str(event["what"]) + (lost or failed)
    return str(event["what"])


def _redis(event: Event) -> str:
    if event["kind"] != "redis" or event["action"] == "drop-request":
        return ""
    reply = brief(str(event["reply"]))
    return brief(event["what"]) + ("" if event["action"] == "drop-reply" else f" → {reply}")


def draw(events: Sequence[Event], deciding: int | None, *, width: int = 118) -> str:
    """The timeline as text of at most `width` columns."""
    lines = rows(events)
    pods = list(dict.fromkeys(pod for _, pod, _, _ in lines if pod))
    pod_width = max(8, min(30, (width - 8) * 3 // 5 // max(1, len(pods)) - 2))
    redis_width = max(10, width - 8 - len(pods) * (pod_width + 2))
    head = [f"{'step':>4}  "] + [f"{'Pod ' + pod:<{pod_width}}  " for pod in pods] + [REDIS]
    drawn = ["".join(head).rstrip(), "─" * min(width, 8 + len(pods) * (pod_width + 2) + redis_width)]
    for number, pod, does, redis in lines:
        mark = DECIDING if number == deciding else " "
        if not pod:
            drawn.extend(textwrap.wrap(f"── {does} ──", width, initial_indent=" " * 6, subsequent_indent=" " * 6))
            continue
        left = textwrap.wrap(does, pod_width) or [""]
        right = textwrap.wrap(redis, redis_width) or [""]
        for row in range(max(len(left), len(right))):
            cells = [(left[row] if row < len(left) and name == pod else "").ljust(pod_width) for name in pods]
            lead = f"{mark}{number:>3}" if row == 0 else "    "
            text = f"{lead}  " + "  ".join(cells) + "  " + (right[row] if row < len(right) else "")
            drawn.append(text.rstrip())
    return "\n".join(drawn)


def sentence(events: Sequence[Event], judgement: Judgement) -> str:
    """What was lost and why, in one sentence; empty where nothing was."""
    if not judgement.findings:
        return ""
    finding = judgement.findings[0]
    why = _why(events, finding)
    return finding.sentence + (f": {why}" if why else "") + "."


def _why(events: Sequence[Event], finding: Finding) -> str:
    if finding.kind == "lost" and finding.subject.startswith("image"):
        return _why_image(events, finding.subject)
    if finding.kind == "duplicated":
        text = next((e["text"] for e in events if e["type"] == "invoke" and e.get("message") == finding.subject), "")
        sent = [(n, e) for n, e in enumerate(events) if _is(e, "memory") and _ok(e) and text in e["what"]]
        return "sent by " + " and ".join(f"{event['actor']} (step {number})" for number, event in sent)
    if finding.kind in ("lost", "leaked"):
        key = finding.subject if finding.kind == "leaked" else "temp_messages"
        last = [(n, e) for n, e in enumerate(events) if _is(e, "redis") and _writes(e) and key in e["what"]]
        if last:
            number, event = last[-1]
            return f"the last write there is {brief(event['what'])} by {event['actor']} (step {number})"
    if finding.kind == "stuck":
        refused = [event["error"] for event in events if event["type"] == "fail"]
        return f"absorbing ends in {brief(refused[-1])}" if refused else "every pod finds it not ready yet"
    return ""


def _why_image(events: Sequence[Event], image: str) -> str:
    add = next((e for e in events if e["type"] == "invoke" and image in e.get("images", ())), None)
    sent = [n for n, e in enumerate(events) if _is(e, "memory") and _ok(e) and add and add["text"] in e["what"]]
    if add is None or not sent:
        return ""
    sender = events[sent[0]]["actor"]
    uploads = [n for n, e in enumerate(events) if _is(e, "gemini") and f"{image}." in e["what"] and e["action"] == "go"]
    uuid = _uuid_of(events, add, image)
    asked = [
        e for e in events[: sent[0]] if _is(e, "redis") and e["actor"] == sender and uuid and e["what"] == f"GET {uuid}"
    ]
    when = f", though its upload had been done (step {uploads[0]})" if uploads and uploads[0] < sent[0] else ""
    if asked:
        answer = brief(asked[-1]["reply"])
        return f"{sender} read {'nothing' if answer == 'nil' else answer} from Redis for it{when}"
    return f"{sender} had no finished upload of it in its own memory and sent the message without it{when}"


def _uuid_of(events: Sequence[Event], add: Event, image: str) -> str:
    for event in events:
        if event["type"] == "ok" and event["call"] == add["call"] and event["result"]:
            placeholder = event["result"][add["images"].index(image)]
            return f"upload_status:{placeholder['upload_uuid']}"
    return ""


def _is(event: Event, kind: str) -> bool:
    return bool(event["type"] == "step" and event["kind"] == kind)


def _ok(event: Event) -> bool:
    return "Error" not in str(event["reply"])


def _writes(event: Event) -> bool:
    return not str(event["what"]).startswith(("GET", "LRANGE", "MGET", "SCAN"))
