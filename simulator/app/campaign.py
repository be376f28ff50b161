"""Explores cells (a target in a scenario each), writes what was found into the run's folder, replays it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from podrace.simulator.app import counterexample, timeline
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import TargetError
from podrace.simulator.fleets.inline import watchdog
from podrace.simulator.history.events import Event, write_history
from podrace.simulator.judge.checks import INCONCLUSIVE, Judgement, judge
from podrace.simulator.scenarios.catalogue import Scenario
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab, Lab, ProcessLab
from podrace.simulator.search.schedule import follow
from podrace.simulator.servers.connection import Server
from podrace.simulator.target import load_target


@dataclass(frozen=True)
class NamedTarget:
    """A target and the short name that tables show."""

    name: str
    path: str


@dataclass(frozen=True)
class Replayed:
    """What a schedule did when it was run again."""

    events: tuple[Event, ...]
    deciding: int | None
    judgement: Judgement
    sentence: str


def explore_cell(
    server: Server,
    target: NamedTarget,
    scenario: Scenario,
    bounds: Bounds,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int], None] = lambda run: None,
) -> Cell:
    """Explore one cell; a counterexample is written as a file, a history and a timeline in text.

    A target that cannot be judged makes the cell inconclusive, with the reason in its note.
    """
    factory = load_target(target.path)
    with InlineLab(server, factory, scenario, seed=seed) as lab, _quiet_collector():
        try:
            with watchdog(lab.moves):
                found = Explorer(scenario, lab.play, lab.finish, bounds, progress=progress).explore()
        except TargetError as error:
            return _unjudged(target, scenario, str(error))
        path = _write(lab, target, scenario, found, seed=seed, folder=folder)
    return Cell(
        target=target.name,
        scenario=scenario.name,
        fleet="inline",
        verdict=found.verdict,
        expected=scenario.expected(target.name),
        counts=found.judgement.counts,
        schedules={"run": found.run, "pruned": found.pruned, "complete": found.complete},
        counterexample=str(path) if path else None,
        elapsed_s=round(found.elapsed_s, 3),
        words=found.words,
        note=_note(found, bounds),
        row=scenario.row,
        sentence=counterexample.load(path).sentence if path else "",
    )


def replay(lab: Lab, saved: counterexample.SavedSchedule) -> Replayed:
    """Run a saved schedule again. Raises TargetError where the target goes another way."""
    play = lab.play(saved.retries)
    try:
        events = play.run(follow(saved.decisions))
    finally:
        lab.finish(play)
    judgement = judge(events)
    told = lab.readable(events)
    return Replayed(
        tuple(told),
        play.deciding_step(),
        judgement,
        timeline.sentence(told, judgement),
    )


def lab_for(
    fleet: str,
    server: Server,
    target: NamedTarget,
    scenario: Scenario,
    *,
    seed: int,
    parts: Mapping[str, str],
) -> Lab:
    """A lab whose plays run on this kind of fleet: `inline` or `processes`."""
    if fleet == "inline":
        return InlineLab(server, load_target(target.path), scenario, seed=seed)
    load_target(target.path)  # what is wrong with it is better said here than by a pod
    return ProcessLab(server, target.path, scenario, seed=seed, parts=parts)


def markdown(cells: Sequence[Cell], scenarios: Sequence[Scenario]) -> str:
    """The matrix: a row a scenario, a column a target."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    by_place = {(cell.scenario, cell.target): cell for cell in cells}
    lines = ["| # | failure mode | " + " | ".join(targets) + " |", "| --- | --- |" + " --- |" * len(targets)]
    for scenario in scenarios:
        words = []
        for target in targets:
            cell = by_place.get((scenario.name, target))
            words.append(
                "" if cell is None else cell.words + ("" if cell.verdict == cell.expected else " (unexpected)")
            )
        lines.append(f"| {scenario.row} | {scenario.name} | " + " | ".join(words) + " |")
    return "\n".join(lines) + "\n"


def _write(
    lab: Lab, target: NamedTarget, scenario: Scenario, found: Exploration, *, seed: int, folder: Path
) -> Path | None:
    best = found.counterexample
    if best is None:
        return None
    stem = f"{target.name.replace(':', '.')}-{scenario.name}"
    events = lab.readable(best.events)
    sentence = timeline.sentence(events, best.judgement)
    path = folder / f"{stem}{counterexample.SUFFIX}"
    counterexample.save(
        path,
        counterexample.SavedSchedule(
            target=target.path,
            scenario=scenario.name,
            seed=seed,
            retries=best.retries,
            verdict=found.verdict,
            words=found.words,
            faults=best.faults,
            preemptions=best.preemptions,
            sentence=sentence,
            decisions=best.decisions,
        ),
    )
    text = timeline.draw(events, best.deciding)
    (folder / f"{stem}.txt").write_text(f"{text}\n\n{sentence}\n", encoding="utf-8")
    write_history(folder / f"{stem}.history.jsonl", mark(events, best.deciding))
    return path


def mark(events: Sequence[Event], deciding: int | None) -> Iterator[Event]:
    """The events, the deciding one marked as such."""
    for number, event in enumerate(events):
        yield event | {"deciding": True} if number == deciding else event


def _note(found: Exploration, bounds: Bounds) -> str:
    if not found.applies:
        return "the fault of this scenario has nothing to strike in this target"
    if found.verdict == INCONCLUSIVE:
        return f"the budget of {bounds.budget_s:g} s was spent before all schedules were run"
    return ""


def _unjudged(target: NamedTarget, scenario: Scenario, why: str) -> Cell:
    return Cell(
        target=target.name,
        scenario=scenario.name,
        fleet="inline",
        verdict=INCONCLUSIVE,
        expected=scenario.expected(target.name),
        counts={},
        words=INCONCLUSIVE,
        note=why,
        row=scenario.row,
    )


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keeps the cycle collector from walking what was imported, and from running many times in each schedule."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
