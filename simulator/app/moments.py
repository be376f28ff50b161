"""The four moments T0 to T3 of the first image, read from a history, and drawn side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from podrace.simulator.history.events import Event
from podrace.simulator.judge.findings import Judgement

MARGIN = 5
NARROW_COLUMNS = 76
"""Below this width two timelines stand one below the other."""


@dataclass(frozen=True)
class Moment:
    """One of T0 to T3: its time, and what each pod did and Redis held then."""

    name: str
    t_ms: float
    lines: tuple[tuple[str, str], ...]


def moments(events: Sequence[Event]) -> list[Moment]:
    """T0 to T3 of the first message. Moments that a run never reached are left out."""
    first = {event["method"]: event for event in reversed(events) if event["type"] == "invoke"}
    ended = {event["call"]: event for event in events if event["type"] in ("ok", "fail", "info")}
    redis = {
        event["moment"]: ("Redis", _redis_in_words(event["keys"])) for event in events if event["type"] == "snapshot"
    }
    add, absorb = first["add_message"], first["absorb"]
    image = add["args"][2][0]
    pod, other = f"Pod {add['actor']}", f"Pod {absorb['actor']}"

    def moment(name: str, event: Event, *lines: tuple[str, str]) -> Moment:
        return Moment(name, event["t_ms"] - add["t_ms"], lines)

    takes = f"takes the message, starts the upload of {image}, hands out a placeholder"
    found = [moment("T0", ended[add["call"]], (pod, takes), redis["accepted"])]
    if "upload_status" in first:
        end = ended[first["upload_status"]["call"]]
        answer = end["result"]["status"] if end["type"] == "ok" else end["error"]
        found.append(moment("T1", end, (pod, f"upload over; {pod} says {answer}"), redis["uploaded"]))
    steps = [
        event
        for event in events
        if event["type"] == "step"
        and event["actor"] == absorb["actor"]
        and absorb["t_ms"] <= event["t_ms"] <= ended[absorb["call"]]["t_ms"]
    ]
    sent = [step for step in steps if step["kind"] == "service" and step["what"].startswith("send to")]
    before = [step for step in steps if not sent or step["t_ms"] <= sent[0]["t_ms"]]  # it may read once more later
    read = [step for step in before if step["what"].startswith("LRANGE")]
    asked = [step for step in before if step["what"].startswith("GET upload_status:")]
    kept = any("image " in step["what"].partition(":")[2] for step in sent[:1])
    if read:
        own = "asks its own dict: " + ("completed" if kept else "never heard of it")
        answer = f"asks Redis: {_answer(asked[-1]['reply'])}" if asked else own
        found.append(moment("T2", (asked or read)[-1], (other, f"reads the message, {answer}")))
    if sent:
        sends = f"sends the memory message {'with' if kept else 'without'} {image}"
        lost = [] if kept else [("LOST", f"{image} is in no memory, and nobody was told")]
        found.append(moment("T3", sent[0], (other, sends), redis["absorbed"], *lost))
    return sorted(found, key=lambda moment: moment.t_ms)


def _answer(reply: str) -> str:
    if reply == "nil":
        return "nothing there"
    return next((word for word in ("completed", "failed", "pending") if f'"{word}"' in reply), reply)


def _redis_in_words(keys: Mapping[str, str]) -> str:
    statuses = {json.loads(value)["status"] for key, value in keys.items() if key.startswith("upload_status:")}
    states = [f"upload status {', '.join(sorted(statuses))}" if statuses else "no upload status"]
    if "temp_messages:user-1" in keys:
        states.append("the message waits")
    return ", ".join(states)


def draw(timelines: Mapping[str, Sequence[Moment]], *, width: int) -> str:
    """The timelines side by side, or one below the other where `width` columns are too few."""
    if width < NARROW_COLUMNS and len(timelines) > 1:
        return "\n".join(draw({name: found}, width=width) for name, found in timelines.items())
    column = (width - MARGIN) // len(timelines) - 1
    lines = [" " * MARGIN + " ".join(name.ljust(column) for name in timelines), "─" * width]
    for name in ("T0", "T1", "T2", "T3"):
        cells = [_cell(found, name, column - 1) for found in timelines.values()]
        for number, row in enumerate(zip_longest(*cells, fillvalue="")):
            lines.append((name if number == 0 else "").ljust(MARGIN) + " ".join(part.ljust(column) for part in row))
        lines.append("")
    return "\n".join(line.rstrip() for line in lines)


def _cell(found: Sequence[Moment], name: str, width: int) -> list[str]:
    moment = next((one for one in found if one.name == name), None)
    if moment is None:
        return ["never came"]
    said = [f"{who}: {deed}" for who, deed in moment.lines]
    return [f"at {moment.t_ms:.1f} ms", *(line for one in said for line in wrap(one, width))]


def summary_line(target: str, judgement: Judgement) -> str:
    """`local   foreign-pod   LOST  1 of 1 images`: what became of the images."""
    lost = sum(f.kind == "lost" and f.subject.startswith("image-") for f in judgement.findings)
    images = judgement.counts["images"]
    became = f"LOST  {lost} of {images} images" if lost else f"kept  {images} of {images}"
    return f"{target:<8}foreign-pod   {became}"
