"""A history as a space-time diagram: a lane a pod, one for Redis and one a service; time runs down.

Actors of a pod have lines of their own within its lane, side by side by what they do: `upload-1` and
`upload-2` share one. What a row says stands to the right of the lanes, in one column; on a narrow screen the
lanes are pressed together and it stands beneath, so that it stays on the page.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from podrace.reports.drawing import draw
from podrace.reports.rows import REDIS, Event, Row, rows_of
from podrace.reports.safety import cut, shorten

MOST_PODS = 8
MOST_SERVICES = 6
MOST_LINES = 4
"""A pod's lane has no more lines than this; further actors share the last one."""

HEAD_PX, LINE_PX, PLACE_PX, GAP_PX, WHO_PX = 52, 54, 76, 14, 88
CHAR_PX = 6.7
RULE_CHARS = 14
"""A row that belongs to no pod has no name before it, so it has room for more text."""


@dataclass(frozen=True)
class Layout:
    """Where things stand. `lanes_px`: the lanes are pressed together until they are no wider."""

    number_px: float
    row_px: float
    chars: int
    lanes_px: float
    beneath: bool


WIDE = Layout(number_px=52, row_px=24, chars=62, lanes_px=2000, beneath=False)
NARROW = Layout(number_px=46, row_px=24, chars=44, lanes_px=284, beneath=True)
NARROW_LINES, NARROW_LINE_PX = 3, 14


@dataclass
class Lane:
    """A pod, Redis or a service. `lines` are (x, label) within it, `parts` are (from, to) of when it lives."""

    name: str
    label: str
    full: str
    x: float
    width: float
    lines: list[tuple[float, str]]
    parts: list[tuple[float, float]] = field(default_factory=list)
    end: float = 0.0


Lines = dict[str, tuple[Lane, float]]
"""For each actor, and each place that arrows go to, its lane and the x of its line."""


@dataclass(frozen=True)
class Placed:
    """A row and where it stands: `x` its actor's line, `far` where its arrow goes; `lines` are (y, text)."""

    row: Row
    y: float
    height: float
    x: float
    far: float
    who: str
    lines: Sequence[tuple[float, str]]
    full: str


def timeline(
    history: Sequence[Event],
    *,
    title: str,
    sentence: str = "",
    name: str = "lane",
    alone: bool = False,
    layout: Layout = WIDE,
    actor: str = "Pod",
) -> Markup:
    """The SVG. `name` is unique in the page; `alone`: with its style, title and sentence in the picture.

    `actor` is what the lanes of those who act are called, such as Pod or Process.
    """
    rows = rows_of(history, sentence)
    lanes, line_of = lanes_of(rows, layout, actor)
    right = max([layout.number_px, *(lane.x + lane.width for lane in lanes)])
    who_x = layout.number_px if layout.beneath else right + 24
    text_x = layout.number_px + 6 if layout.beneath else who_x + WHO_PX
    placed, bottom = _place(rows, line_of, layout)
    _run_down(lanes, line_of, placed, bottom)
    width = max(text_x + layout.chars * CHAR_PX + (2 if layout.beneath else 16), right + 8)
    caption = textwrap.wrap(sentence, int(width / 7)) if alone else []
    top = -(40 + 18 * len(caption)) if alone else 0
    return draw(
        "timeline.svg.j2",
        id=name,
        title=title,
        sentence=sentence or f"{len(rows)} rows, time runs down",
        caption=caption,
        alone=alone,
        top=top,
        width=width,
        height=bottom + 8 - top,
        lanes=lanes,
        bars=_bars(placed, line_of),
        rows=placed,
        layout=layout,
        unit="ms" if any("." in one.number for one in rows) else "step",
        who_x=who_x,
        text_x=text_x,
    )


def lanes_of(rows: Sequence[Row], layout: Layout, actor: str = "Pod") -> tuple[list[Lane], Lines]:
    """The lanes from left to right: pods, Redis, services, as far as there are any; and whose line is where."""
    groups: dict[str, list[str]] = {}
    for one in rows:
        if one.pod:
            known = groups.setdefault(one.pod, ["main"])
            known.extend({_group(one.actor)} - set(known))
    shown, others = _first(sorted(groups), MOST_PODS)
    reached = {one.to for one in rows if one.to}
    services, more = _first(sorted(reached - {REDIS}), MOST_SERVICES)
    wanted = [([pod], f"{actor} {pod}", groups[pod][:MOST_LINES], float(LINE_PX)) for pod in shown]
    places = [([place], place[:1].upper() + place[1:]) for place in (*sorted(reached & {REDIS}), *services)]
    shared = [(names, f"{len(names)} more") for names in (others, more)]
    wanted += [(names, label, [""], float(PLACE_PX)) for names, label in (shared[0], *places, shared[1]) if names]
    whole = sum(each_px * len(lines) + GAP_PX for _, _, lines, each_px in wanted)
    scale = min(1.0, layout.lanes_px / whole)
    lanes: list[Lane] = []
    lane_of: dict[str, Lane] = {}
    x = layout.number_px + 12
    for names, label, labels, px in wanted:
        each_px = round(px * scale)
        most = max(1, int(each_px * len(labels) / 7.6))
        fits = label if len(label) <= most else shorten(label.removeprefix(f"{actor} "), most)
        full = shorten(", ".join(names), 400) if len(names) > 1 else label if fits != label else ""
        subs = [shorten(text, int(each_px / 5.5)) if len(labels) > 1 else "" for text in labels]
        lines = [(x + each_px * (number + 0.5), text) for number, text in enumerate(subs)]
        lanes.append(Lane(names[0] if len(names) == 1 else "more", fits, full, x, each_px * len(labels), lines))
        lane_of |= dict.fromkeys(names, lanes[-1])
        x += each_px * len(labels) + round(GAP_PX * scale)
    line_of = {one.to: (lane_of[one.to], lane_of[one.to].lines[0][0]) for one in rows if one.to}
    for one in rows:
        if one.pod:
            lane = lane_of[one.pod]
            line = min(groups[one.pod].index(_group(one.actor)), len(lane.lines) - 1)
            line_of[one.actor] = lane, lane.lines[line][0]
    return lanes, line_of


def _first(names: list[str], most: int) -> tuple[list[str], list[str]]:
    """Those that have a lane of their own, and those that share one."""
    return (names, []) if len(names) <= most else (names[: most - 1], names[most - 1 :])


def _group(actor: str) -> str:
    """The group of an actor: `upload` for `A.upload-2`; calls at rest belong to the main line."""
    group = re.sub(r"(-\d+)+$", "", actor.partition(".")[2])
    return "main" if group in ("", "rest") else group


def _place(rows: Sequence[Row], line_of: Lines, layout: Layout) -> tuple[list[Placed], float]:
    """Every row in its place, and where the last one ends."""
    placed = []
    top = HEAD_PX + layout.row_px * 0.25
    for row in rows:
        y = top + layout.row_px / 2
        x = line_of[row.actor][1] if row.pod else 0.0
        far = line_of[row.to][1] if row.to else x
        who, full = shorten(row.actor, 13), ""
        if layout.beneath:
            text = cut(f"{who}: {row.text}" if who else row.text, layout.chars * NARROW_LINES - 8)
            first = y + 20 if row.pod else y + 4
            wrapped = textwrap.wrap(text, layout.chars)[:NARROW_LINES] or [""]
            lines = [(first + NARROW_LINE_PX * number, line) for number, line in enumerate(wrapped)]
        else:
            lines = [(y + 4, cut(row.text, layout.chars if row.pod else layout.chars + RULE_CHARS))]
            full = (row.full or row.text) if lines[0][1] != row.text else ""
        height = lines[-1][0] + 8 - top if layout.beneath else layout.row_px
        placed.append(Placed(row, y, height, x, far, "" if layout.beneath else who, lines, full))
        top += height
    return placed, top


def _run_down(lanes: Sequence[Lane], line_of: Lines, rows: Sequence[Placed], bottom: float) -> None:
    """How long each lane lives: with a gap from where its pod is killed to where it acts again."""
    for lane in lanes:
        begin: float | None = HEAD_PX - 4.0
        own = [each for each in rows if each.row.pod and lane.name != "more" and line_of[each.row.actor][0] is lane]
        for each in own:
            if begin is not None and each.row.marks == "kill":
                lane.parts.append((begin, each.y))
            begin = None if each.row.marks == "kill" else each.y if begin is None else begin
        if begin is not None:
            lane.parts.append((begin, bottom))
        lane.end = min(bottom, lane.parts[-1][1] + 12)


def _bars(rows: Sequence[Placed], line_of: Lines) -> list[tuple[float, float, float]]:
    """(x, y, height) of what is under way: a call from its start to its end, a worker from first to last step."""
    calling = {each.row.actor for each in rows if each.row.mark == "invoke"}
    spans: dict[tuple[str, str], list[float]] = {}
    for each in rows:
        if each.row.pod and each.row.mark != "fault" and (each.row.key or each.row.actor not in calling):
            spans.setdefault((each.row.actor, each.row.key), []).append(each.y)
    found = []
    for (actor, key), ys in spans.items():
        lane, x = line_of[actor]
        lives = next((end for start, end in lane.parts if start <= ys[0] < end), ys[0])
        end = min(ys[-1], lives) if len(ys) > 1 or not key else lives
        if end > ys[0]:
            found.append((x, ys[0], end - ys[0]))
    return found
