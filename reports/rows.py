"""Which events of a history a picture shows, and what stands in each row. The words are the history's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podrace.reports.safety import cut, shorten

Event = Mapping[str, Any]

FIRST_ROWS, MIDDLE_ROWS, LAST_ROWS = 20, 43, 15
MOST_ROWS = FIRST_ROWS + MIDDLE_ROWS + LAST_ROWS + 2
"""The most rows that fit on a printed page."""
FULL_CHARS = 400
"""A tooltip holds no more than this."""
REDIS, NUMBERS = "redis", (int, float)
FATES = {"drop-request": "request-lost", "drop-reply": "reply-lost", "hang": "hangs"}
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Row:
    """One row. `mark` is the event's type, or `more` for events that are left out.

    `to` is the lane that an arrow goes to: `redis` or a service. `fate` says how that went: answered, received,
    failed, request-lost, reply-lost or hangs. `key` is the number of the call that the row begins or ends.
    """

    number: str
    mark: str
    actor: str = ""
    text: str = ""
    to: str = ""
    fate: str = "answered"
    marks: str = ""
    deciding: bool = False
    full: str = ""
    key: str = ""

    @property
    def pod(self) -> str:
        return self.actor.partition(".")[0]

    @property
    def struck(self) -> bool:
        """Whether a fault struck here, or the step failed."""
        return self.marks not in ("", "time") or self.mark == "died" or self.fate not in ("answered", "received")


def rows_of(history: Sequence[Event], sentence: str = "") -> list[Row]:
    """The rows of a history: at most MOST_ROWS, and a few lines that say what is left out.

    Their numbers are the events' own, or milliseconds where the events carry times. `sentence` says what went
    wrong: where there are too many events, those of the calls that it names are shown.
    """
    history = [event for event in history if event.get("type") != "snapshot"]  # nobody does anything in them
    kept = _about(history, sentence)
    others = len(history) - len(kept)
    shown = _folded(kept, sentence)
    folded = len(kept) - len(shown)
    start_ms = min((one["t_ms"] for one in shown if type(one.get("t_ms")) in NUMBERS), default=0)
    rows = [
        _more(item, "") if isinstance(item, int) else _row(item, _number(item, position, start_ms))
        for position, item in _capped(shown)
    ]
    left_out = {" at rest, in rounds in which nothing moved": folded, ", of other calls": others}
    return [*rows, *(_more(count, why) for why, count in left_out.items() if count)]


def _more(count: int, why: str) -> Row:
    return Row("", "more", text=f"{count:,} more{why}")


def _row(event: Event, number: str) -> Row:
    mark, actor = str(event["type"]), str(event.get("actor") or "")
    deciding = event.get("deciding") is True
    if "says" not in event:
        return Row(number, mark, actor, mark, deciding=deciding)
    said = {name: str(event.get(name) or "") for name in ("says", "redis", "marks", "kind", "action")}
    says, redis, marks, kind, action = said.values()
    text, to, full = says, "", ""
    marks = "fault" if mark == "time" and event.get("fault") is True else marks
    fate = FATES.get(action) or ("failed" if event.get("failed") or (mark == "step" and marks) else "answered")
    if kind in (REDIS, "receive"):
        to = REDIS
    elif kind == "service":
        named = re.match(r"(\w+)\.\w+\(", str(event.get("what")))
        to = str(event.get("service") or (named[1] if named else "service"))
    if redis:
        wrong = says.partition("✗")[2].strip() or (action if marks and action != "go" else "")
        text = redis + (f" ✗ {wrong}" if wrong else "")
        full = f"{event.get('what')} → {event.get('reply')}"
    fate = "received" if kind == "receive" and fate == "answered" else fate
    key = str(event["call"]) if mark != "step" and event.get("call") is not None else ""
    return Row(number, mark, actor, " ".join(text.split()), to, fate, marks, deciding, cut(full, FULL_CHARS), key)


def _number(event: Event, position: int, start_ms: float) -> str:
    if type(event.get("t_ms")) not in NUMBERS:
        return shorten(str(event.get("n", position)), 7)
    since_ms = event["t_ms"] - start_ms
    return shorten(f"{since_ms:.1f}" if since_ms < 9999 else f"{since_ms / 1000:.4g} s", 7)


def _about(history: Sequence[Event], sentence: str) -> Sequence[Event]:
    """If there are too many events for a picture, those of the calls that the sentence names.

    Without a sentence it is the first call. Steps belong to a call if they name one of its arguments, or an id that it
    has answered with.
    """
    calls = [one for one in history if one.get("type") == "invoke"]
    tokens = set(re.findall(r"[\w-]+", sentence))
    named = [one for one in calls if str(one.get("name")) in tokens] if sentence else calls[:1]
    if not named or len(history) <= MOST_ROWS:
        return history
    numbers = {one.get("call") for one in named}
    names = {text for one in named for text in _texts(one.get("args"))}
    for one in history:
        if one.get("type") == "ok" and one.get("call") in numbers:
            names.update(re.findall(_UUID, str(one.get("result"))))
    wanted = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?!\w)" for name in sorted(names)) or r"(?!)")
    numbers |= {one.get("call") for one in calls if wanted.search(str(one.get("args")))}
    return [
        one
        for one in history
        if one.get("deciding")
        or one.get("type") in ("rest", "time", "fault", "died")
        or (one.get("call") in numbers if "call" in one else wanted.search(f"{one.get('what')} {one.get('reply')}"))
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _folded(history: Sequence[Event], sentence: str) -> list[Event]:
    """The events without idle rounds: at rest, calls that repeat an earlier one word for word, and the time between.

    What is marked, or named in the sentence by its step, stays.
    """
    begins = next((place for place, one in enumerate(history) if one.get("type") == "rest"), len(history))
    steps = set(re.findall(r"\bstep (\d+)\b", sentence))
    calls: dict[str, list[Event]] = {}
    for one in history[begins:]:
        if one.get("type") == "invoke" or str(one.get("actor")) in calls:
            calls.setdefault(str(one.get("actor")), []).append(one)
    said: set[tuple[str, ...]] = set()
    left_out: set[int] = set()
    for events in calls.values():
        text = tuple(f"{one.get('says')} {one.get('redis')}" for one in events)
        needed = any(one.get("deciding") or one.get("marks") or str(one.get("n")) in steps for one in events)
        if text in said and not needed:
            left_out.update(map(id, events))
        said.add(text)
    kept = [one for one in history if id(one) not in left_out]
    following = [*kept[1:], *kept[-1:]]
    return [
        one
        for one, after in zip(kept, following, strict=True)
        if one.get("type") != "time" or one.get("fault") or one.get("gone") or after.get("type") not in ("time", "rest")
    ]


def _capped(shown: Sequence[Event]) -> list[tuple[int, Event | int]]:
    """At most MOST_ROWS: the first, those around the deciding step, the last; how many more in between."""
    every: list[tuple[int, Event | int]] = list(enumerate(shown))
    if len(shown) <= MOST_ROWS:
        return every
    deciding = next((number for number, event in enumerate(shown) if event.get("deciding") is True), 0)
    end = len(shown) - LAST_ROWS
    begin = min(max(FIRST_ROWS, deciding - MIDDLE_ROWS // 2), end - MIDDLE_ROWS)
    gaps = [[(0, count)] if count else [] for count in (begin - FIRST_ROWS, end - begin - MIDDLE_ROWS)]
    return [*every[:FIRST_ROWS], *gaps[0], *every[begin : begin + MIDDLE_ROWS], *gaps[1], *every[end:]]
