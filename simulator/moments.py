"""The four moments T0 to T3 of the first image, read from a history, and drawn side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from simulator.checks import Judgement
from simulator.history import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

NARROW_COLUMNS = 76
"""Below this width two timelines stand one below the other."""


@dataclass(frozen=True)
class Moment:
    """One of T0 to T3: when, and what each pod and Redis made of it."""

    name: str
    t_ms: float
    lines: tuple[tuple[str, str], ...]


def moments(events: Sequence[Event]) -> list[Moment]:
    """T0 to T3 of message m1. Moments that a run never reached are left out."""
    calls = {event["call"]: event for event in events if event["type"] == "invoke"}
    ended = {event["call"]: event for event in events if event["type"] in ("ok", "fail", "info")}
    redis = {event["moment"]: _held(event["redis"]) for event in events if event["type"] == "snapshot"}
    add = _first(calls, op="add", message="m1")
    if add is None or add["call"] not in ended:
        return []
    image = add["images"][0]
    start_ms, pod = add["t_ms"], f"Pod {add['actor']}"
    accepted = ended[add["call"]]
    lines = [
        (pod, f"takes the message, starts the upload of {image}, hands out a placeholder"),
        ("Redis", redis.get("accepted", "")),
    ]
    found = [Moment("T0", accepted["t_ms"] - start_ms, tuple(lines))]
    status = _first(calls, op="status", image=image)
    if status is not None:
        answer = _status_of(ended[status["call"]])
        lines = [(pod, f"upload over; {pod} says {answer}"), ("Redis", redis.get("uploaded", ""))]
        found.append(Moment("T1", ended[status["call"]]["t_ms"] - start_ms, tuple(lines)))
    absorb = _first(calls, op="absorb", user=add["user"])
    if absorb is not None:
        found.extend(_absorbed(events, absorb, ended.get(absorb["call"]), image, start_ms, redis))
    return found


def _absorbed(
    events: Sequence[Event],
    absorb: Event,
    end: Event | None,
    image: str,
    start_ms: float,
    redis: Mapping[str, str],
) -> list[Moment]:
    pod = absorb["actor"]
    until_ms = end["t_ms"] if end else float("inf")
    steps = [
        event
        for event in events
        if event["type"] == "step" and event["actor"] == pod and absorb["t_ms"] <= event["t_ms"] <= until_ms
    ]
    asked = [step for step in steps if step["what"].startswith("GET upload_status:")]
    sent = [step for step in steps if step["kind"] == "memory"]
    read = [step for step in steps if step["what"].startswith("LRANGE")]
    found = []
    if read:
        answer = "asks Redis: " + _answer(asked[-1]["reply"]) if asked else "asks its own dict: never heard of it"
        lines = [(f"Pod {pod}", f"reads the message, {answer}")]
        found.append(Moment("T2", (asked or read)[-1]["t_ms"] - start_ms, tuple(lines)))
    if sent:
        kept = "image" in sent[0]["what"]
        what = f"sends the memory message with {image}" if kept else f"sends the memory message without {image}"
        lines = [(f"Pod {pod}", what), ("Redis", redis.get("absorbed", ""))]
        if not kept:
            lines.append(("LOST", f"{image} is in no memory, and nobody was told"))
        found.append(Moment("T3", sent[0]["t_ms"] - start_ms, tuple(lines)))
    return found


def _first(calls: Mapping[int, Event], **wanted: Any) -> Event | None:
    for event in calls.values():
        if all(event.get(key) == value for key, value in wanted.items()):
            return event
    return None


def _status_of(event: Event) -> str:
    return str(event["result"]["status"]) if event["type"] == "ok" else str(event.get("error"))


def _answer(reply: str) -> str:
    if reply == "nil":
        return "nothing there"
    return next((word for word in ("completed", "failed", "pending") if f'"{word}"' in reply), reply)


def _held(keys: Mapping[str, str]) -> str:
    statuses = {json.loads(value)["status"] for key, value in keys.items() if key.startswith("upload_status:")}
    words = [f"upload status {', '.join(sorted(statuses))}" if statuses else "no upload status"]
    if "temp_messages:user-1" in keys:
        words.append("the message waits")
    return ", ".join(words)


def draw(timelines: Mapping[str, Sequence[Moment]], *, width: int) -> RenderableType:
    """The timelines side by side, or one below the other where `width` columns are too few."""
    from rich.console import Group

    if width < NARROW_COLUMNS:
        return Group(*(_table({name: found}) for name, found in timelines.items()))
    return _table(timelines)


def _table(timelines: Mapping[str, Sequence[Moment]]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True, style="bold")
    for name in timelines:
        table.add_column(name, ratio=1)
    for name in ("T0", "T1", "T2", "T3"):
        cells = [next((moment for moment in found if moment.name == name), None) for found in timelines.values()]
        table.add_row(name, *(_cell(moment) for moment in cells), end_section=False)
    return table


def _cell(moment: Moment | None) -> RenderableType:
    from rich.text import Text

    text = Text()
    if moment is None:
        return text.append("never came", style="dim")
    text.append(f"at {moment.t_ms:.1f} ms\n", style="dim")
    for position, (who, what) in enumerate(moment.lines):
        lost = who == "LOST"
        style = "bold red" if lost else "dim" if who == "Redis" else ""
        text.append(("\n" if position else "") + (f"LOST: {what}" if lost else f"{who}: {what}"), style=style)
    return text.append("\n")


def summary_line(target: str, scenario: str, judgement: Judgement) -> str:
    """`local   foreign-pod   LOST  1 of 1 images`: what became of the images."""
    lost = sum(f.kind == "lost" and f.subject.startswith("image-") for f in judgement.findings)
    images = judgement.images
    if lost:
        return f"{target:<8}{scenario:<14}LOST  {lost} of {images} images"
    return f"{target:<8}{scenario:<14}kept  {images} of {images}"


def print_timelines(
    timelines: Mapping[str, Sequence[Moment]], judgements: Mapping[str, Judgement], *, file: IO[str] | None = None
) -> None:
    """The timelines and one line a target, on standard output as wide as that is, or into a file."""
    from rich.console import Console

    console = Console(file=file, width=100) if file else Console()
    console.print(draw(timelines, width=console.width))
    console.print()
    for target, judgement in judgements.items():
        line = summary_line(target, "foreign-pod", judgement)
        console.print(line, style="red" if "LOST" in line else "green", highlight=False, soft_wrap=True)
