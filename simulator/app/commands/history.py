"""A history from a file, judged for linearizability: what `podrace check FILE --model …` does."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from podrace.reports.timeline import timeline as picture_of
from podrace.simulator.app import show, timeline
from podrace.simulator.app.runs import run_folder
from podrace.simulator.errors import PodraceError, UsageError
from podrace.simulator.history.events import Event
from podrace.simulator.judge import linear
from podrace.simulator.judge.linear import KeyVerdict, Operation
from podrace.simulator.judge.operations import read_operations

EXIT_CODES = {"holds": 0, "violated": 1, "inconclusive": 3}
SHOWN_KEYS = 10


def check_history(file: Path, model: str, *, states: int, as_json: bool) -> int:
    """Print whether the history is linearizable, and the fewest operations that show it is not. Returns the exit code.

    These are drawn too. Raises UsageError, with the line, for a file that holds no such history.
    """
    meant = linear.MODELS[model]
    if not file.is_file():
        raise UsageError(f"history {file}: expected a file, found none")
    try:
        with file.open("rb") as lines:
            histories = read_operations(lines, meant, source=str(file))
    except OSError as error:
        raise UsageError(f"history {file}: expected a file that can be read: {error.strerror or error}") from error
    if not histories:
        raise UsageError(f"history {file}: expected operations, found none: of nothing nothing is known")
    verdicts = linear.check(histories, meant, states_a_key=states)
    overall = linear.overall(verdicts)
    counts = {word: sum(one.verdict == word for one in verdicts) for word in EXIT_CODES}
    found = [one for one in verdicts if one.verdict != "holds"]
    drawn = _draw([one for one in found if one.shows][:SHOWN_KEYS], f"{file.name}: {model}, a lane a process")
    if as_json:
        keys = [
            asdict(one) | {"shows": [shown._asdict() for shown in one.shows], "picture": drawn.get(one.key, "")}
            for one in found
        ]
        document = {"version": 1, "command": "check", "model": model, "verdict": overall, "counts": counts}
        click.echo(json.dumps(document | {"keys": keys}, indent=2, ensure_ascii=False))
    else:
        for one in found[:SHOWN_KEYS]:
            picture = f"\npicture: {drawn[one.key]}" if one.key in drawn else ""
            click.echo(f"{as_text(one)}{picture}\n")
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        total = sum(one.operations for one in verdicts)
        click.echo(f"{overall}: {len(verdicts)} keys, {total} operations: {told}")
    return EXIT_CODES[overall]


def _draw(violated: Sequence[KeyVerdict], title: str) -> Mapping[Hashable, str]:
    """Draw what shows each violation, in a run folder: the files by key. That it cannot be written is said, no more."""
    drawn = {}
    try:
        if violated:
            with run_folder(None, "check") as folder:
                for number, one in enumerate(violated, 1):
                    sentence = f"{_headline(one).removesuffix(':')}."
                    svg = picture_of(as_events(one.shows), title=title, sentence=sentence, alone=True, actor="Process")
                    path = folder / f"violation-{number}.svg"
                    path.write_text(svg, encoding="utf-8")
                    drawn[one.key] = str(path)
    except (PodraceError, OSError) as error:
        click.echo(f"podrace: no picture: {error}", err=True)
        return {}
    return drawn


def as_events(shows: Sequence[Operation]) -> list[Event]:
    """Operations as the events of a history that can be drawn: numbered by their places in real time."""
    events: list[Event] = []
    for number, one in enumerate(shows):
        process = _shown(one.process).replace(".", "·")
        common = {"actor": process, "pod": process, "line": "", "call": number, "redis": "", "marks": ""}
        begins, ends = ("read", _shown(one.value)) if one.f == "read" else (operation_in_words(one), "done")
        events.append(common | {"n": one.began, "type": "invoke", "says": begins})
        if one.ended is not None:
            events.append(common | {"n": one.ended, "type": "ok", "says": f"→ {ends}"})
    return sorted(events, key=lambda event: event["n"])


def as_text(one: KeyVerdict) -> str:
    """A verdict, and the operations that show a violation in the order in which they began and ended."""
    if one.verdict == "inconclusive":
        return f"key {_shown(one.key)}: inconclusive: {one.states} states looked at; more with --states"
    return f"{_headline(one)}\n{timeline.draw(as_events(one.shows), width=show.width(), actor='Process')}"


def _headline(one: KeyVerdict) -> str:
    return f"key {_shown(one.key)}: violated: no order explains these {len(one.shows)} of its operations:"


def operation_in_words(one: Operation) -> str:
    """An operation in a few words."""
    if one.f == "cas":
        return f"cas {_shown(one.value[0])} → {_shown(one.value[1])}"
    return f"{one.f} {_shown(one.value)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
