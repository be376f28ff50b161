"""Explores cells (a target in a scenario each), writes what was found into the run's folder, replays it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from podrace.simulator.app import counterexample, timeline
from podrace.simulator.app.names import PARTS, NamedTarget, named_scenario, named_target
from podrace.simulator.app.runs import Cell, stem_of, unjudged
from podrace.simulator.errors import TargetError, users_errors_as_target_errors
from podrace.simulator.fleets.inline import in_pod
from podrace.simulator.fleets.watchdog import watchdog
from podrace.simulator.history.events import Event, Wording, readable, script_name, shorten
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, NOT_APPLICABLE, VIOLATED, Judgement
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search.ahead import Ahead, Submit
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab, Lab, ProcessLab
from podrace.simulator.search.record import endings, judge
from podrace.simulator.search.schedule import Chooser, Decision, follow, take_default
from podrace.simulator.servers.connection import Server
from podrace.simulator.target import load_target
from podrace.simulator.world.footprints import argv_of, names_of
from podrace.simulator.world.plain.watch import without_prints

LEAST_WITHIN_S = 1.0
"""A step may take this long however small the budget is: a busy machine needs that now and then."""


StartsHelpers = Callable[[Path], Sequence[Submit]]
"""Starts helpers for a lab whose files lie in this folder, so that they give the files the same names."""


@dataclass(frozen=True)
class Replayed:
    """What a schedule did when it was run again. `deciding` is set in the deciding event."""

    events: tuple[Event, ...]
    judgement: Judgement
    endings: Mapping[str, tuple[str, str]]
    """How the scenario's calls ended, by name (see record.endings)."""
    sentence: str


def explore_cell(
    server: Server,
    target: NamedTarget,
    scenario: Scenario,
    bounds: Bounds,
    *,
    seed: int,
    folder: Path,
    on_processes: bool = True,
    progress: Callable[[int], None] = lambda run: None,
    helpers: StartsHelpers | None = None,
) -> Cell:
    """Explore one cell; a counterexample is written as a file, a history and a timeline in text.

    A target that cannot be judged makes the cell inconclusive, with the reason in its note. What was found is run
    once on processes too (`on_processes`): where that ends otherwise, nobody knows, and the cell is inconclusive.
    `helpers` play a part of the schedules, where there are many.
    """
    cell = unjudged(scenario, target.name, "inline")
    try:
        with users_errors_as_target_errors(), InlineLab(server, target.path, scenario, seed=seed) as lab:
            explorer = Explorer(lab.scenario, lab.play, lab.finish, bounds, progress=progress)
            with led(lab, lambda: (lab.moves(), explorer.taken), bounds) as places:
                ahead = Ahead(partial(helpers, lab.folder), lab.table, lambda: not places) if helpers else None
                found = explorer.explore(ahead)
            why = "left out here, as every schedule would print it"
            notes = [*lab.notes(), *(f"the target prints, at {place}: {why}" for place in places)]
            path, sentence = _write(lab, target, found, seed=seed, folder=folder)
    except TargetError as error:
        return replace(cell, note=str(error))
    reasons = {
        NOT_APPLICABLE: "the faults of this scenario have nothing to strike in this target",
        INCONCLUSIVE: f"the budget of {bounds.budget_s:g} s was spent before all schedules were run",
    }
    cell = replace(
        cell,
        verdict=found.verdict,
        words=found.words,
        counts=found.judgement.counts,
        schedules={"run": found.run, "pruned": found.pruned, "complete": found.complete},
        counterexample=str(path) if path else None,
        elapsed_s=round(found.elapsed_s, 3),
        note="; ".join(filter(None, [reasons.get(found.verdict, ""), *notes])),
        sentence=sentence,
    )
    if found.verdict in (HOLDS, VIOLATED) and on_processes:
        return _confirm(cell, found, server, target, scenario, seed=seed)
    return cell


def _confirm(
    cell: Cell,
    explored: Exploration,
    server: Server,
    target: NamedTarget,
    scenario: Scenario,
    *,
    seed: int,
) -> Cell:
    """Run the counterexample once on real processes, or the default schedule of a target that holds.

    What pods of one process share without knowing, such as what is kept by thread, can make either untrue.
    """
    saved = counterexample.load(Path(cell.counterexample)) if cell.counterexample else None
    unclear = partial(replace, cell, verdict=INCONCLUSIVE, words=INCONCLUSIVE)
    found = "it holds in one process" if saved is None else f"it is violated in one process ({cell.words})"
    try:
        with users_errors_as_target_errors(), lab_for("processes", server, target, scenario, seed=seed) as lab:
            again = replay(lab, saved) if saved else _play(lab, take_default, scenario.retries[0])
    except TargetError as error:
        return unclear(note=f"{found}, and on processes of its own: {error}")
    words = again.judgement.words
    if words != cell.words:
        return unclear(note=f"{found}, but on processes of its own: {again.sentence or words}")
    for name, (type_, _) in explored.endings.items() if saved is None else ():
        ended, reason = again.endings.get(name, ("", ""))
        if ended != type_:
            died = next((event["error"] for event in again.events if event["type"] == "died"), "")
            how = ": ".join(filter(None, [f"ended as `{ended}`" if ended else "never ended", reason or died]))
            return unclear(note=f"{found}, but on processes of its own the call {name} {how}")
    return cell


def replayed(
    server: Server, saved: counterexample.SavedSchedule, fleet: str, scenario: Scenario | None = None
) -> Replayed:
    """Run a saved schedule again, on pods in `processes` or `inline`, of the scenario that it names or of this one.

    Raises as `replay` does, and UsageError where the target or the scenario cannot be loaded.
    """
    scenario = scenario or named_scenario(saved.scenario)
    with (
        users_errors_as_target_errors(),
        lab_for(fleet, server, named_target(saved.target), scenario, seed=saved.seed) as lab,
        # processes have a timeout for each step
        watchdog(lab.moves, unblock=lab.unblock) if fleet == "inline" else nullcontext(),
    ):
        return replay(lab, saved)


def replay(lab: Lab, saved: counterexample.SavedSchedule) -> Replayed:
    """Run a saved schedule again. Raises TargetError, naming the step, if the target does something else this time."""
    return _play(lab, _follow_closely(lab, saved), saved.retries)


def _play(lab: Lab, choose: Chooser, retries: int) -> Replayed:
    play = lab.play(retries)
    try:
        judgement = judge(lab.scenario, play.run(choose))
        events = _readable(lab, play.events, play.deciding_event)
    finally:
        lab.finish(play)
    ended = endings(lab.scenario, play.events)
    return Replayed(tuple(events), judgement, ended, timeline.sentence(events, judgement))


def _follow_closely(lab: Lab, saved: counterexample.SavedSchedule) -> Chooser:
    """A chooser that repeats a saved schedule and reports the first step that differs from the saved one."""
    again = follow(saved.schedule)

    def choose(play: Any, steps: Any, default: Any) -> Decision:
        place = len(play.decisions)
        if 0 < place <= len(saved.decisions):
            expected, got = saved.decisions[place - 1][2], _about(lab, play.taken[place - 1])
            if expected != got:
                raise TargetError(
                    f"the target has changed since this was found: at step {place} expected {expected!r}, got {got!r}"
                )
        return again(play, steps, default)

    return choose


def _about(lab: Lab, taken: tuple[Any, ...]) -> str:
    """What a decision was about, in words that are the same in every process: values, such as URIs, differ."""
    _, kind, args = taken
    if kind == "redis":
        names = " ".join(sorted(names_of(args)))
        keys = [key.removeprefix(lab.prefix) for key in lab.table.footprint(args).touched()]
        return shorten(" ".join([names, *(key for key in keys if not key.startswith(" "))]))
    if kind == "service":
        return f"{args[0]}.{args[1]}"
    if kind == "timer":
        return f"timer of {args[1]:g} s"
    if kind in ("call", "receive"):
        return shorten(f"{kind} {args[0]}")
    return str(kind)


def lab_for(fleet: str, server: Server, target: NamedTarget, scenario: Scenario, *, seed: int) -> Lab:
    """A lab whose plays run on this kind of fleet: `inline` or `processes`."""
    if fleet == "inline":
        return InlineLab(server, target.path, scenario, seed=seed)
    load_target(target.path)  # so that an error in it is reported here, and not by a pod
    return ProcessLab(server, target.path, scenario, seed=seed, parts=PARTS)


def _readable(lab: Lab, events: Sequence[Event], deciding: int | None) -> list[Event]:
    """A play's events as a history file holds them, with `deciding` set in the deciding one."""
    found = readable(events, Wording(lab.prefix, f"{lab.folder}/", lab.table.texts))
    if deciding is not None:
        found[deciding]["deciding"] = True
    return found


def _write(lab: Lab, target: NamedTarget, found: Exploration, *, seed: int, folder: Path) -> tuple[Path | None, str]:
    """Write the counterexample. Returns its file and its sentence, or (None, '') if there is none."""
    best = found.counterexample
    if best is None:
        return None, ""
    stem = stem_of(target.name, lab.scenario.name)
    events = _readable(lab, best.events, best.deciding)
    sentence = timeline.sentence(events, best.judgement)
    path = folder / f"{stem}{counterexample.SUFFIX}"
    about = [_about(lab, taken) for taken in best.taken]
    counterexample.save(
        path,
        counterexample.SavedSchedule(
            target=target.path,
            scenario=lab.scenario.name,
            seed=seed,
            retries=best.retries,
            verdict="violated",
            words=found.words,
            faults=best.faults,
            preemptions=best.preemptions,
            sentence=sentence,
            decisions=tuple((*decision, step) for decision, step in zip(best.decisions, about, strict=True)),
        ),
    )
    scripts = "\n\n".join(f"{name}\n{script}" for name, script in _scripts(lab, best.events))
    timeline.write(folder, stem, events, sentence, scripts)
    return path, sentence


def _scripts(lab: Lab, events: Sequence[Event]) -> list[tuple[str, str]]:
    """The Lua scripts that were run, each once, as (name, text)."""
    found: dict[str, str] = {}
    for event in events:
        if event["type"] == "step" and event["step"].kind == "redis":
            text = lab.table.script_of(argv_of(event["step"].args))
            if text is not None:
                found.setdefault(script_name(text), text)
    return list(found.items())


@contextmanager
def led(lab: Lab, moves: Callable[[], object], bounds: Bounds) -> Iterator[list[str]]:
    """Raises TargetError for a target that never comes back: `moves` has to change after each step.

    What pods print is left out. Yields a list that gets the place where they first do so.
    """
    most_s = max(LEAST_WITHIN_S, bounds.budget_s)
    with watchdog(moves, unblock=lab.unblock, most_s=most_s), without_prints(in_pod) as places:
        yield places
