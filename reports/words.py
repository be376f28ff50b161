"""What an event of a history says, in few characters: the words of a row of the space-time diagram."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file, or a document of another shape, may end in."""

FULL_CHARS = 400
"""A tooltip holds no more than this."""

STAGES = {
    "soon": "everything has settled; the pods that are left absorb what waits",
    "lease": "a minute passes: every lease and every lock is over; once more",
    "ttl": "a year passes: every time to live is over; once more",
}

SHOWN = frozenset({"invoke", "ok", "fail", "info", "step", "fault", "died", "drain"})
"""Types of events that make a row; others (`final`, `snapshot`) show nothing."""

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID = re.compile(rf"\b(?={UUID})([0-9a-f]{{4}})[0-9a-f-]{{32}}")
_STATUS = re.compile(r'\{"status": ?"(\w+)".*?"result": ?(?:null|\{.*?\})\}')
_MESSAGE = re.compile(r'\{"message_id": "([^"]*)".*?"timestamp": [\d.]+\}')
_URI = re.compile(r"https?://\S+/(files/[0-9a-z]{4})[0-9a-z]*(?:-(\d+))?")
_SECRET = re.compile(r"(://[^/\s:@\"'<>]*):[^/\s@\"'<>]+@")
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


@dataclass(frozen=True)
class Row:
    """One row. `mark`: call, ok, fail, info, step, timer, fault, died, drain or more.

    `to`: redis, gemini or memory, where an arrow goes there; `fate` of it: answered, failed, request-lost,
    reply-lost or hangs. `full` is the text where `text` and `reply` leave something out.
    """

    number: str
    mark: str
    actor: str = ""
    text: str = ""
    reply: str = ""
    to: str = ""
    fate: str = "answered"
    deciding: bool = False
    full: str = ""
    key: str = ""
    """What the row is about, for marks that span rows: the call's id."""

    @property
    def pod(self) -> str:
        return self.actor.partition(".")[0]

    @property
    def struck(self) -> bool:
        """Whether the harness did something to this step, or it ended badly."""
        return self.mark in ("fault", "died") or self.fate != "answered"


def presentable(text: str) -> str:
    """The text without what no file of ours may hold: passwords in URLs, lone surrogates, control characters."""
    text = _UNSEEN.sub("\ufffd", text.encode("utf-8", "backslashreplace").decode())
    return _SECRET.sub(r"\1:***@", text)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def brief(value: Any) -> str:
    """A command or reply in few characters: ids cut short, a status, a message or a file by its name."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = _UUID.sub(r"\1…", " ".join(text.split()))
    text = _STATUS.sub(r"<\1>", text)
    text = _MESSAGE.sub(r"<\1>", text)
    return _URI.sub(lambda found: found[1] + "…" + (f"-{found[2]}" if found[2] else ""), text)


def row(event: Event, calls: Mapping[str, Event], number: str) -> Row:
    """The row of an event, which is of a type that is SHOWN. `calls`: the `invoke` events by their `call`."""
    kind, actor, deciding = str(event["type"]), str(event.get("actor", "")), event.get("deciding") is True
    key = str(event.get("call"))
    if kind == "invoke":
        return Row(number, "call", actor, _call(event), deciding=deciding, key=key)
    if kind in ("ok", "fail", "info"):
        call = calls.get(key, {})
        text, who = _ended(call, event), str(call.get("actor", ""))
        full = _full(event.get("error", "")) if kind != "ok" else ""
        return Row(number, kind, who, text, deciding=deciding, full=full, key=key)
    if kind == "step":
        return _step(event, number, actor, deciding)
    if kind == "fault":
        return Row(number, "fault", actor, brief(event.get("what", "")), deciding=deciding)
    if kind == "died":
        error = event.get("error", "")
        return Row(number, "died", actor, f"ends in {brief(error)}", deciding=deciding, full=_full(error))
    stage = str(event.get("stage", ""))
    return Row("", "drain", text=STAGES.get(stage, stage))


def _step(event: Event, number: str, actor: str, deciding: bool) -> Row:
    kind, action = str(event.get("kind", "")), str(event.get("action", "go"))
    what, answer = str(event.get("what", "")), str(event.get("reply", ""))
    if kind == "timer":
        early = " early" if action == "early" else ""
        return Row(number, "timer", actor, what + early, deciding=deciding)
    fate = {"drop-request": "request-lost", "drop-reply": "reply-lost", "hang": "hangs", "go": "answered"}.get(
        action, "failed"
    )
    lost = {"request-lost": "request lost", "reply-lost": "reply lost", "hangs": "no answer"}
    reply = lost.get(fate) or brief(answer)
    to = kind if kind in ("redis", "gemini", "memory") else ""
    full = _full(f"{what} → {answer}")
    return Row(number, "step", actor, brief(what), reply, to, fate if to else "answered", deciding, full)


def _call(event: Event) -> str:
    operation = event.get("op")
    if operation == "add":
        images = ", ".join(str(image) for image in event.get("images") or ())
        return f"add_message {event.get('message')}" + (f" with {images}" if images else "")
    if operation == "absorb":
        return f"absorb {event.get('user')!r}"
    return f"upload_status of {event.get('image')}" if operation == "status" else str(operation)


def _ended(call: Event, event: Event) -> str:
    if event["type"] != "ok":
        return f"{'refused' if event['type'] == 'fail' else 'nobody knows'}: {brief(event.get('error', ''))}"
    result = event.get("result")
    if call.get("op") == "add":
        return "accepted"
    if call.get("op") == "absorb":
        return f"{result} delivered"
    return brief(result["status"] if isinstance(result, dict) and "status" in result else result)


def _full(value: Any) -> str:
    text = str(value)
    return text if len(text) <= FULL_CHARS else f"{text[: FULL_CHARS * 2 // 3]} … {text[-FULL_CHARS // 4 :]}"
