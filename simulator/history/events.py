"""What happened in a run, one event a line (JSONL), written as it happens.

Events are dicts with `type` and, by type:

- `invoke`: a client's call: `actor`, `call` (its number), `name`, `method` and `args`
- `ok`, `fail`, `info`: how the call ended: done, definitely not done, or nobody can know; `actor`, `call`, and
  `result` or `error`
- `step`: what an actor did to the world: `actor`, `kind`, `action` (`go` or the fault), `reply`
- `died`: an actor of the pod's own ended in an error that nobody caught: `actor`, `error`
- `fault`: what the harness did: `actor`, `what`
- `time`: time passed: `passes_s`, `gone` (keys whose time to live was over), `fault` (or by itself)
- `rest`: the run begins to come to rest, or is at rest: `stage`

In a file every event says what it shows: `pod` and `line` (who), `says` (what the pod does), `redis` (what the
server does), `marks` (`kill`, `fault`, `lost`, `time` or nothing). Whatever draws a history draws these.

Words as in Jepsen's histories (https://jepsen.io/consistency); `t_ms` is milliseconds since the run began.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from podrace.simulator.errors import UsageError

Event = dict[str, Any]

SHOWN_CHARS = 400
"""A longer text is cut in the middle: a history stays readable, and small."""

_UUID = re.compile(r"([0-9a-f]{4})[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STATUS = re.compile(r'\{"status": ?"(\w+)".*?"result": ?(?:null|\{.*?\})\}')
_MESSAGE = re.compile(r'\{"message_id": "([^"]*)".*?"timestamp": [\d.]+\}')
_WAITS = {"lock": "waits for a lock", "receive": "waits for something to read"}


def shorten(text: str, limit: int = SHOWN_CHARS) -> str:
    """The text, its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def brief(text: str) -> str:
    """A command or reply in few characters: ids cut short, a status or a message by its name."""
    text = _UUID.sub(r"\1…", text)
    text = _STATUS.sub(r"<\1>", text)
    return _MESSAGE.sub(r"<\1>", text)


def plain(value: Any) -> str:
    """A Redis argument or reply as text: bytes decoded, lists in brackets, nil as `nil`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(item) for item in value) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "OK", False: "no", None: "nil"}[value]
    return str(value)


def script_name(text: str) -> str:
    """What a script calls itself in its first comment, else a short hash."""
    first = text.strip().partition("\n")[0]
    if first.startswith("--"):
        return shorten(first.lstrip("- ").strip(), 40)
    return "#" + hashlib.sha1(text.encode()).hexdigest()[:8]


class Wording:
    """Puts the steps of one run into words. `prefix` and `hide` are left out: the run's prefix, its folder."""

    def __init__(self, prefix: str = "", hide: str = "", scripts: Mapping[str, str] | None = None) -> None:
        self._prefix = prefix
        self._hide = hide
        self._scripts = scripts or {}

    def text(self, value: Any) -> str:
        """A value as text, the same in every process and folder."""
        text = plain(value)
        for hidden in filter(None, (self._hide, self._prefix)):
            text = text.replace(hidden, "")
        return text

    def command(self, args: Sequence[Any]) -> str:
        """A Redis command: a script by its name and its keys, a transaction by its commands."""
        if args[0] == "TRANSACTION":
            return "MULTI; " + "; ".join(self.command(one) for one in args[1:-1] if plain(one[0]) != "MULTI") + "; EXEC"
        name = plain(args[0]).upper()
        if name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO") and len(args) > 2:
            known = plain(args[1]) if name.startswith("EVAL_") or name == "EVAL" else self._scripts.get(plain(args[1]))
            script = script_name(known) if known else f"#{plain(args[1])[:8]}"
            return shorten(" ".join([name, f"({script})", *map(self.text, args[3:])]))
        if name == "SCRIPT LOAD":
            return f"SCRIPT LOAD ({script_name(plain(args[1]))})"
        return shorten(" ".join(map(self.text, args)))

    def value(self, value: Any) -> Any:
        """A result as JSON has it."""
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(value)


def readable(events: Sequence[Event], wording: Wording) -> list[Event]:
    """The events as a history file holds them, every one in words, the same for the same seed."""
    calls = {event["call"]: event for event in events if event["type"] == "invoke"}
    return [{"n": number} | _in_words(event, wording, calls) for number, event in enumerate(events)]


def _in_words(raw: Event, wording: Wording, calls: Mapping[int, Event]) -> Event:
    event: Event = dict(raw)
    pod, _, line = str(raw.get("actor", "")).partition(".")
    event |= {"pod": pod, "line": line, "says": "", "redis": "", "marks": ""}
    event_type = raw["type"]
    if "error" in raw:
        event["error"] = wording.text(raw["error"])
    if event_type == "step":
        event |= _step(event.pop("step"), event.pop("reply"), raw, wording)
    elif event_type == "invoke":
        event["args"] = wording.value(raw["args"])
        event["says"] = f"{raw['method']}({', '.join(map(_argument, event['args']))})"
    elif event_type in ("ok", "fail", "info"):
        if event_type == "ok":
            event["result"] = wording.value(raw["result"])
        ending = "→ " + brief(shorten(plain(event["result"]), 120)) if event_type == "ok" else brief(event["error"])
        event["says"] = {"ok": "", "fail": "→ refused: ", "info": "→ nobody knows: "}[event_type] + ending
        event["method"] = calls[raw["call"]]["method"]
    elif event_type == "died":
        event["says"] = f"ends in {brief(event['error'])}"
    elif event_type == "fault":
        killed = raw["what"].startswith("killed")
        event |= {"says": f"✗ {wording.text(raw['what'])}", "marks": "kill" if killed else "fault"}
    elif event_type == "time":
        gone = ", ".join(map(wording.text, raw["gone"]))
        why = "time passes, while others are under way" if raw["fault"] else "time passes"
        event |= {
            "says": f"{why}: {_span(raw['passes_s'])}" + (f"; over: {brief(gone)}" if gone else ""),
            "marks": "time",
        }
    elif event_type == "rest":
        event["says"] = {
            "begins": "the calls are over; now the pods are asked until nothing moves",
            "over": "at rest",
        }[raw["stage"]]
    return event


def _step(step: Any, reply: Any, raw: Event, wording: Wording) -> Event:
    action = raw["action"]
    lost = {"drop-request": " ✗ request lost", "drop-reply": " ✗ reply lost"}.get(action, "")
    event: Event = {
        "kind": step.kind,
        "service": step.args[0] if step.kind == "service" else "",
        "marks": "lost" if lost else "" if action == "go" else "fault",
    }
    if step.kind == "redis":
        command = wording.command(step.args)
        shown = "" if lost else f" → {brief(shorten(wording.text(reply)))}"
        name = command.partition(" ")[0].rstrip(";")
        return (
            event
            | {"what": command, "reply": shorten(wording.text(reply)), "says": name + lost}
            | {"redis": brief(command) + (" (never arrived)" if action == "drop-request" else shown)}
        )
    if step.kind == "service":
        failed = {"fail": " ✗ fails", "hang": " ✗ never answers"}.get(action, lost)
        if not failed and raw["failed"]:
            failed = f" ✗ {brief(shorten(wording.text(reply), 80))}"
        return event | {
            "what": raw["says"],
            "reply": shorten(wording.text(reply)),
            "says": wording.text(raw["says"]) + failed,
        }
    if step.kind == "timer":
        woken = "is woken" if reply == "free" else f"wakes after {step.args[1]:g} s"
        return event | {"what": "timer", "reply": "", "says": woken}
    if step.kind == "receive":
        broken = "✗ its connection is lost" if action != "go" else ""
        got = "nothing came" if reply is None else f"gets {brief(shorten(wording.text(reply), 120))}"
        return event | {
            "what": step.args[0],
            "reply": shorten(wording.text(reply)),
            "says": f"{step.args[0]}: {broken or got}",
        }
    return event | {"what": step.kind, "reply": "", "says": _WAITS.get(step.kind, step.kind)}


def _span(passes_s: float) -> str:
    """A span of time in the largest unit that it is a whole number of."""
    for unit_s, unit in ((86_400, "days"), (3_600, "h")):
        if passes_s >= 2 * unit_s and passes_s % unit_s == 0:
            return f"{passes_s / unit_s:g} {unit}"
    return f"{passes_s:g} s"


def _argument(value: Any) -> str:
    return brief(shorten(plain(value) if not isinstance(value, dict) else json.dumps(value), 60))


def write_history(path: Path, events: Iterable[Event]) -> None:
    """Write the events, one JSON document a line."""
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=plain)
            file.write(line.encode("utf-8", "backslashreplace").decode() + "\n")


def read_history(path: Path) -> list[Event]:
    """The events of a file; UsageError, with the line, where it is damaged."""
    events = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                events.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}, line {number}: expected one JSON event: {error}") from error
    return events
