"""The few events of a free fleet's run that show what went wrong, in words, for a text and a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from podrace.simulator.app.judging import FiledRun, Recorded
from podrace.simulator.history.events import Event, Wording, readable
from podrace.simulator.judge.findings import Finding
from podrace.simulator.judge.linear import KeyVerdict
from podrace.simulator.judge.run import CallRecord
from podrace.simulator.scenarios.model import Ref, Scenario
from podrace.simulator.world.steps import Step

AFTER_MS = 1000.0
"""Faults are shown that were about until so long after the last of the events."""


def events_that_show(
    recorded: Recorded, scenario: Scenario, finding: Finding, objects: Sequence[KeyVerdict] = ()
) -> list[Event]:
    """The calls without which nobody would find it, what services did about the same, and the faults meanwhile.

    `objects`: those of whose operations some cannot be put in any order. Empty where nothing of the history has to
    do with it.
    """
    places = _places_of(recorded, scenario, finding, objects)
    return readable([*_events(recorded, places)], Wording(hide=f"{recorded.work}/")) if places else []


def _places_of(recorded: Recorded, scenario: Scenario, finding: Finding, objects: Sequence[KeyVerdict]) -> set[int]:
    for run in recorded.runs():
        if finding in scenario.checked(run):
            return _places(run, _needed(run, scenario, finding), finding.subject)
    for one in objects:
        if one.key == finding.subject and one.shows:
            return {place for shown in one.shows for place in (shown.began, shown.ended) if place is not None}
    return set(_named(recorded, finding.subject))


def _needed(run: FiledRun, scenario: Scenario, finding: Finding) -> Sequence[CallRecord]:
    """So few calls that none can go: halves are left out first, then ever smaller parts."""
    left = run.left

    def shows(calls: Sequence[CallRecord]) -> bool:
        return finding in scenario.checked(replace(run, calls=calls, notes={}, _left=lambda: left))

    return fewest(run.calls, shows)


def fewest(items: Sequence[Any], shows: Callable[[Sequence[Any]], bool]) -> Sequence[Any]:
    """The items without those that can go while it still `shows`."""
    size = max(1, len(items) // 2)
    while True:
        start, is_less = 0, False
        while start < len(items):
            fewer = [*items[:start], *items[start + size :]]
            if shows(fewer):
                items, is_less = fewer, True
            else:
                start += size
        if size == 1 and not is_less:
            return items
        size = max(1, size // 2)


def _places(run: FiledRun, needed: Sequence[CallRecord], subject: str) -> set[int]:
    """Where these calls begin and end, and where services were asked about what they alone are about."""
    places = {place for call in needed for place in (call.began, call.ended) if place is not None}
    own = {subject, *(text for call in needed for text in _texts(call.args))}
    for call in run.calls:
        texts = {call.name, *_texts(call.args)}
        if call not in needed and subject not in texts:
            own -= texts
    wanted = re.compile(
        "|".join(rf"(?<![\w-]){re.escape(text)}(?![\w-])" for text in sorted(own, key=len, reverse=True))
    )
    return places | {place for place, event in run.steps("service") if own and wanted.search(str(event["says"]))}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif value is not None and value != "":
        yield value.call if isinstance(value, Ref) else str(value)


def _named(recorded: Recorded, subject: str) -> Iterable[int]:
    """Where a call of that name begins and ends, or one whose result is named in the subject: a key is named so."""
    ids = [text for text in re.split(r"[:{}]", subject) if len(text) > 8]
    begun: dict[int, int] = {}
    for place, event in recorded.events():
        if event["type"] == "invoke":
            begun[event["call"]] = place
            if event["name"] == subject:
                yield place
        elif "call" in event:
            began = begun.pop(event["call"])
            if event["type"] == "ok" and any(text in str(event["result"]) for text in ids):
                yield from (began, place)


def _events(recorded: Recorded, places: set[int]) -> Iterator[Event]:
    """The events at these places, and the faults that were about meanwhile where they happened."""
    shown = [event for place, event in recorded.events() if place in places]
    where = {"server", *recorded.services, *(event["actor"] for event in shown)}
    from_ms, until_ms = shown[0]["t_ms"], shown[-1]["t_ms"] + AFTER_MS
    strikes: dict[str, tuple[int, float]] = {}
    meanwhile: set[int] = set()
    for place, event in recorded.events():
        if event["type"] == "fault" and event["actor"] in where:
            began, began_ms = strikes.pop(event["actor"], (place, event["t_ms"]))
            if event["stage"] == "strikes":
                strikes[event["actor"]] = place, event["t_ms"]
            elif began_ms <= until_ms and event["t_ms"] >= from_ms:
                meanwhile |= {began, place}
    for place, event in recorded.events():
        if place in places or place in meanwhile or event["type"] == "rest":
            yield _raw(event, recorded)


_KILLED = {"strikes": "killed", "is over": "started again"}


def _raw(event: Event, recorded: Recorded) -> Event:
    """An event of the file as it was when it happened."""
    event_type = event["type"]
    if event_type == "invoke":
        return event | {"args": [recorded.workload.argument_told(one) for one in event["args"]]}
    if event_type == "step":
        args: tuple[Any, ...] = event["service"], event["method"], (event["of"],), {}
        return event | {"step": Step(event["actor"], "service", args)}
    if event_type == "fault" and event["fault"] == "kill":
        return event | {"what": _KILLED[event["stage"]]}
    if event_type == "fault" and event["actor"].islower():  # not a pod's
        return event | {"actor": "", "what": f"{event['actor']}: {event['what']}"}
    return event
