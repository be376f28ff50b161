"""What happened in a run, one event a line (JSONL), written as it happens.

Events are dicts with `type` and, by type:

- `invoke`: a client's call: `actor`, `call` (its id), `op` (`add`, `absorb` or `status`) and its arguments
- `ok`, `fail`, `info`: how the call ended: done, definitely not done, or nobody can know; `call`, and
  `result` or `error`
- `step`: what an actor did to the world: `actor`, `kind`, `what`, `action` (`go` or the fault), `reply`
- `died`: an actor of the pod's own ended in an error that nobody caught: `actor`, `error`
- `fault`: what the harness did to a pod: `actor`, `action`
- `final`: what the world held at the end: `ledger`, `images` (URI to image) and `keys`

Words as in Jepsen's histories (https://jepsen.io/consistency); `t_ms` is milliseconds since the run began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from podrace.simulator.errors import UsageError

Event = dict[str, Any]

SHOWN_CHARS = 400
"""A longer text is cut in the middle: a history stays readable, and small."""


def shorten(text: str, limit: int = SHOWN_CHARS) -> str:
    """The text, its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


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


def describe(kind: str, args: tuple[Any, ...], prefix: str = "", hide: str = "") -> str:
    """One line for a step: the Redis command without the run's key prefix, or what was asked of Gemini.

    `hide` is left out of it too: the folder of the run's images, which differs from run to run.
    """
    if kind == "redis":
        if args[0] == "BATCH":
            return shorten("; ".join(describe(kind, command, prefix, hide) for command in args[1:]))
        words = (plain(arg).replace(hide, "") if hide else plain(arg) for arg in args)
        return shorten(" ".join(word.removeprefix(prefix) if prefix else word for word in words))
    if kind == "gemini":
        return f"upload {Path(args[0]).name}"
    if kind == "memory":
        user_id, parts = args
        return shorten(f"send to {plain(user_id)}: {describe_parts(parts)}")
    if kind == "timer":
        return f"timer of {args[1]:g} s fires"
    if kind == "lock":
        return "wait for a lock"
    return " ".join([kind, *(plain(arg) for arg in args)])


def describe_parts(parts: Iterable[Mapping[str, Any]]) -> str:
    """The parts of a memory message in a few words."""
    words = []
    for part in parts:
        if part.get("type") == "google_cloud_file_uri":
            words.append("image " + str(part["google_cloud_file_uri"]).rsplit("/", 1)[-1])
        elif part.get("type") == "missing_image":
            words.append(f"missing {part.get('filename')} ({part.get('reason')})")
        else:
            words.append(repr(part.get("text")))
    return ", ".join(words)


def readable(events: Sequence[Event], prefix: str, hide: str = "") -> list[Event]:
    """The events with every step in words, as a history file holds them, the same for the same seed.

    `hide`: the folder of the run's images.
    """
    told = []
    for number, raw in enumerate(events):
        event: Event = {"n": number} | raw
        step = event.pop("step", None)
        if step is not None:
            reply = event.pop("reply")
            event |= {
                "kind": step.kind,
                "what": describe(step.kind, step.args, prefix, hide),
                "reply": "" if step.kind == "timer" else shorten(_without(plain(reply), hide)),
            }
        elif "result" in event:
            event["result"] = _without(event["result"], hide)
        told.append(event)
    return told


def _without(value: Any, hide: str) -> Any:
    """A value with `hide` left out of every text in it."""
    if not hide:
        return value
    if isinstance(value, str):
        return value.replace(hide, "")
    if isinstance(value, list):
        return [_without(item, hide) for item in value]
    if isinstance(value, dict):
        return {key: _without(item, hide) for key, item in value.items()}
    return value


def write_history(path: Path, events: Iterable[Event]) -> None:
    """Write the events, one JSON document a line."""
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=plain) + "\n")


def read_history(path: Path) -> list[Event]:
    """The events of a file; UsageError, with the line, where it is damaged."""
    events = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                events.append(json.loads(line))
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: expected one JSON event: {error}") from error
    return events
