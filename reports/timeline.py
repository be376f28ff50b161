"""A history as a space-time diagram: a lane a pod, one each for Redis, Gemini and the memory agent; time runs down.

Actors of a pod have lines of their own within its lane, side by side by what they do: `upload-1` and
`upload-2` share one. What a row says stands to the right of the lanes, in one column.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from podrace.reports.drawing import draw, svg_css
from podrace.reports.words import SHOWN, UUID, Event, Row, row, shorten

MOST_ROWS = 80
"""What a printed page still holds."""
MOST_PODS = 8
MOST_LINES = 4
"""Lines within one pod's lane; what comes after shares the last."""

ROW_PX, HEAD_PX, LINE_PX, PLACE_PX, GAP_PX = 24, 52, 54, 76, 14
FIRST_LANE_PX, NUMBER_PX, WHO_PX = 64, 52, 88
TEXT_CHARS, CHAR_PX = 62, 6.7
PLACES = (("redis", "Redis"), ("gemini", "Gemini"), ("memory", "Memory"))
DRAINS = frozenset({"soon", "lease", "ttl"})


@dataclass
class Line:
    """One line of a lane. `parts` are (from, to, class)."""

    x: float
    label: str = ""
    parts: list[tuple[float, float, str]] = field(default_factory=list)


@dataclass
class Lane:
    """A pod, or Redis, Gemini, the memory agent. `end`: where it ends, which for a killed pod is early."""

    name: str
    label: str
    x: float
    width: float
    lines: list[Line]
    end: float = 0.0
    full: str = ""


@dataclass(frozen=True)
class Placed:
    """A row and where it stands: `x` its actor's line, `far` where its arrow goes."""

    row: Row
    y: float
    x: float
    far: float
    half: float
    who: str
    text: str
    reply: str
    full: str


def timeline(
    history: Sequence[Event], *, title: str, sentence: str = "", name: str = "timeline", alone: bool = False
) -> Markup:
    """The SVG. `name` is unique in the page; `alone`: with its style, title and sentence in the picture."""
    kept = about(history, sentence)
    rows = rows_of(kept)
    if others := sum(one.get("type") in SHOWN for one in history) - sum(one.get("type") in SHOWN for one in kept):
        rows.append(Row("", "more", text=f"{others:,} more, of other messages"))
    lanes, line_of = lanes_of(rows)
    tops = {number: HEAD_PX + ROW_PX * (number + 0.75) for number in range(len(rows))}
    bottom = HEAD_PX + ROW_PX * (len(rows) + 0.5)
    _run_down(lanes, rows, tops, bottom)
    who_x = lanes[-1].x + lanes[-1].width + 24
    text_x = who_x + WHO_PX
    width = text_x + TEXT_CHARS * CHAR_PX + 16
    said = textwrap.wrap(sentence, int(width / 7)) if alone else []
    top = -(40 + 18 * len(said)) if alone else 0
    return draw(
        "timeline.svg.j2",
        id=name,
        title=title,
        sentence=sentence or f"{len(rows)} rows, time runs down",
        said=said,
        css=svg_css() if alone else "",
        top=top,
        width=width,
        height=bottom + 8 - top,
        lanes=lanes,
        bars=_bars(rows, line_of, tops, lanes),
        rows=[_place(one, tops[number], lanes, line_of) for number, one in enumerate(rows)],
        number_x=NUMBER_PX,
        unit="ms" if any("." in one.number for one in rows) else "step",
        who_x=who_x,
        text_x=text_x,
    )


def about(history: Sequence[Event], sentence: str) -> Sequence[Event]:
    """The events of one message, where there are too many others for one picture: the one that the sentence
    names, or the first where there is no sentence.

    They are the calls that name it, its image or its user, and steps that name one of those or an id that
    such a call has answered with.
    """
    named = re.search(r"\bmessage (m\d+)\b", sentence)
    adds = (one for one in history if one.get("op") == "add" and one.get("message"))
    add = next((one for one in adds if not sentence or (named and one["message"] == named[1])), None)
    if add is None or sum(one.get("type") in SHOWN for one in history) <= MOST_ROWS:
        return history
    answer = next((one for one in history if one.get("type") == "ok" and one.get("call") == add.get("call")), {})
    names = [str(add["message"]), str(add.get("user")), *map(str, add.get("images") or ())]
    names += re.findall(UUID, str(answer.get("result")))
    wanted = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\d])" for name in names))
    calls = {
        one.get("call") for one in history if one.get("type") == "invoke" and wanted.search(str(list(one.values())))
    }
    return [
        one
        for one in history
        if one.get("deciding")
        or one.get("type") in ("drain", "fault", "died")
        or (one.get("call") in calls if "call" in one else wanted.search(f"{one.get('what')} {one.get('reply')}"))
    ]


def rows_of(history: Iterable[Event]) -> list[Row]:
    """The rows that the events make. Numbers are the events' own, or milliseconds where they carry times."""
    calls = {}
    shown: list[tuple[str, Event]] = []
    start_ms = None
    for position, event in enumerate(history):
        if event.get("type") not in SHOWN:
            continue
        if event["type"] == "invoke":
            calls[str(event.get("call"))] = event
        t_ms = event.get("t_ms")
        if isinstance(t_ms, int | float) and not isinstance(t_ms, bool):
            start_ms = t_ms if start_ms is None else start_ms
            since_ms = t_ms - start_ms
            number = f"{since_ms:.1f}" if since_ms < 9999 else f"{since_ms / 1000:.4g} s"
        else:
            number = str(event.get("n", position))
        shown.append((shorten(number, 7), event))
    return [
        Row("", "more", text=f"{item:,} more") if isinstance(item, int) else row(item[1], calls, item[0])
        for item in capped(shown)
    ]


def capped(shown: Sequence[tuple[str, Event]]) -> list[tuple[str, Event] | int]:
    """At most MOST_ROWS: the first, those around the deciding step, the last; how many more in between."""
    if len(shown) <= MOST_ROWS:
        return list(shown)
    head, tail = 20, 15
    middle = MOST_ROWS - head - tail - 2
    deciding = next((number for number, (_, event) in enumerate(shown) if event.get("deciding") is True), 0)
    begin = min(max(head, deciding - middle // 2), len(shown) - tail - middle)
    last = len(shown) - tail
    before, after = begin - head, last - begin - middle
    kept: list[tuple[str, Event] | int] = [*shown[:head], *([before] if before else [])]
    return [*kept, *shown[begin : begin + middle], *([after] if after else []), *shown[last:]]


def lanes_of(rows: Sequence[Row]) -> tuple[list[Lane], dict[str, tuple[int, int]]]:
    """The lanes from left to right, and for each actor which lane and which line of it is his."""
    pods: dict[str, list[str]] = {}
    for one in rows:
        if one.pod:
            pods.setdefault(one.pod, ["main"])
            group = _group(one.actor)
            if group not in pods[one.pod]:
                pods[one.pod].append(group)
    shown = sorted(pods) if len(pods) <= MOST_PODS else sorted(pods)[: MOST_PODS - 1]
    others = sorted(set(pods) - set(shown))
    lanes = []
    x: float = FIRST_LANE_PX
    for pod in shown:
        groups = pods[pod][:MOST_LINES]
        lines = [
            Line(x + LINE_PX * (number + 0.5), shorten(group, 8) if len(groups) > 1 else "")
            for number, group in enumerate(groups)
        ]
        label = shorten(f"Pod {pod}", 7 * len(groups))
        full = f"Pod {pod}" if label != f"Pod {pod}" else ""
        lanes.append(Lane(pod, label, x, LINE_PX * len(groups), lines, full=full))
        x += LINE_PX * len(groups) + GAP_PX
    if others:
        full = shorten(", ".join(others), 400)
        lanes.append(Lane("others", f"{len(others)} more", x, PLACE_PX, [Line(x + PLACE_PX / 2)], full=full))
        x += PLACE_PX + GAP_PX
    line_of = {one.actor: _line_of(one, shown, pods) for one in rows if one.pod}
    for place, label in PLACES:
        lanes.append(Lane(place, label, x, PLACE_PX, [Line(x + PLACE_PX / 2)]))
        x += PLACE_PX + GAP_PX
    return lanes, line_of


def _group(actor: str) -> str:
    """What an actor is one of: `A.upload-2` is an upload; a pod's last calls are its main line's."""
    name, _, number = actor.partition(".")[2].rpartition("-")
    group = name if number.isdigit() else actor.partition(".")[2]
    return "main" if not group or group in DRAINS else group


def _line_of(one: Row, shown: Sequence[str], pods: dict[str, list[str]]) -> tuple[int, int]:
    if one.pod not in shown:
        return len(shown), 0
    return shown.index(one.pod), min(pods[one.pod].index(_group(one.actor)), MOST_LINES - 1)


def _run_down(lanes: Sequence[Lane], rows: Sequence[Row], tops: dict[int, float], bottom: float) -> None:
    """Draw each lane's lines from top to bottom: dotted while its pod is paused, ended where it was killed."""
    changes: dict[str, list[tuple[float, str]]] = {}
    for number, one in enumerate(rows):
        if one.mark == "fault":
            for word, kind in (("kill", "dead"), ("paused", "paused"), ("goes on", "live")):
                if one.text.startswith(word):
                    changes.setdefault(one.pod, []).append((tops[number], kind))
    for lane in lanes:
        begin, kind, lane.end = HEAD_PX - 4.0, "live", bottom
        for at, change in [*changes.get(lane.name, ()), (bottom, "dead")]:
            for line in lane.lines:
                line.parts.append((begin, at, kind))
            begin, kind = at, change
            if change == "dead":
                lane.end = min(bottom, at + 12)
                break


def _bars(
    rows: Sequence[Row], line_of: dict[str, tuple[int, int]], tops: dict[int, float], lanes: Sequence[Lane]
) -> list[tuple[float, float, float]]:
    """(x, y, height) of what is under way: a call from its start to its end, a worker from first to last step."""
    calling = {one.actor for one in rows if one.mark == "call"}
    spans: dict[tuple[str, str], list[float]] = {}
    for number, one in enumerate(rows):
        if one.pod and one.mark != "fault" and (one.key or one.actor not in calling):
            spans.setdefault((one.actor, one.key), []).append(tops[number])
    found = []
    for (actor, key), ys in spans.items():
        lane, line = line_of[actor]
        dead = lanes[lane].end - 12 if lanes[lane].end < max(tops.values()) else lanes[lane].end
        begin, end = min(ys), max(ys) if len(ys) > 1 or not key else dead
        for pause, goes_on, kind in lanes[lane].lines[line].parts:
            if kind == "paused" and begin < pause < end:
                found.append((lanes[lane].lines[line].x, begin, pause - begin))
                begin = min(goes_on, end)
        if end > begin:
            found.append((lanes[lane].lines[line].x, begin, end - begin))
    return found


def _place(one: Row, y: float, lanes: Sequence[Lane], line_of: dict[str, tuple[int, int]]) -> Placed:
    by_name = {lane.name: lane.lines[0].x for lane in lanes[-len(PLACES) :]}
    lane, line = line_of.get(one.actor, (0, 0))
    x = lanes[lane].lines[line].x if one.pod else 0.0
    if one.mark == "fault" and one.text.startswith(("expire", "damage", "corrupt")):
        x = by_name["redis"]
    far = by_name.get(one.to, x)
    reply = shorten(one.reply, max(TEXT_CHARS - 3 - len(one.text), 18)) if one.reply else ""
    text = shorten(one.text, TEXT_CHARS - (len(reply) + 3 if reply else 0))
    short = text != one.text or reply != one.reply or "…" in text + reply
    full = one.full or f"{one.text} → {one.reply}" if short else ""
    return Placed(one, y, x, far, (x + far) / 2, shorten(one.actor, 13), text, reply, full)
