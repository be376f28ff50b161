"""`podrace explore`, `matrix` and `scenarios`: the search of schedules, and what there is to search."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podrace.simulator.app import show
from podrace.simulator.app.names import TARGETS, NamedTarget, named_scenario, named_target
from podrace.simulator.app.options import (
    SCENARIO_HELP,
    TARGET_HELP,
    Names,
    Run,
    Search,
    run_options,
    search_options,
)
from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from podrace.simulator.app.directed import Directed
    from podrace.simulator.app.helping import Job
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.scenarios.model import Scenario
    from podrace.simulator.servers.connection import Server


@click.command()
@click.option("--target", default="shared", help=TARGET_HELP)
@click.option("--scenario", required=True, metavar="NAME", help=SCENARIO_HELP)
@search_options
@run_options
def explore(target: str, scenario: str, search: Search, run: Run) -> None:
    """Search all schedules of a scenario within bounds.

    The scenario holds, or is violated, or it is inconclusive. What violates it is shown by the schedule with the
    fewest faults, then the fewest preemptions, then the fewest steps.
    """
    campaign("explore", [target], [scenario], search, run)


@click.command()
@click.option("--targets", type=Names(), default=",".join(TARGETS), metavar="A,B", help=TARGET_HELP)
@click.option(
    "--scenarios",
    "names",
    type=Names(),
    metavar="NAME,NAME",
    help="Explore only these.  [default: all of the catalogue]",
)
@click.option(
    "--fleets",
    is_flag=True,
    help="Also run what takes a whole fleet or breaks a server, which takes some minutes more.",
)
@search_options
@run_options
def matrix(targets: list[str], names: list[str] | None, fleets: bool, search: Search, run: Run) -> None:
    """Explore every failure mode against every target.

    This uses all cores, or the workers of a Dask scheduler. Rows 21 to 25, 27, 31 and 33 take a whole fleet or break a
    server, so that they cannot be explored step by step: with --fleets each of them runs free for a few seconds.

    The run's folder gets matrix.md, result.json and every counterexample. Ctrl-C keeps the cells that are done.
    """
    from podrace.simulator.app import directed
    from podrace.simulator.scenarios.catalogue import SCENARIOS

    chosen = names or [scenario.name for scenario in SCENARIOS]
    if fleets:
        chosen += [one.name for one in directed.unexplored() if one.name not in chosen]
    if any(map(directed.named, chosen)):
        directed.refuse_foreign(run.redis_url)
    campaign("matrix", targets, chosen, search, run)


@click.command()
def scenarios() -> None:
    """List the scenarios and who is expected to fail.

    One line each: the failure mode's number, a name, the targets expected to violate it, what it shows.
    """
    from podrace.simulator.app.directed import DIRECTED
    from podrace.simulator.scenarios.catalogue import SCENARIOS

    for scenario in SCENARIOS:
        click.echo(_line(scenario))
    click.echo("\nof whole fleets (podrace run --scenario NAME, podrace matrix --scenarios NAME):\n")
    for one in DIRECTED:
        click.echo(_line(one))


def _line(one: Scenario | Directed) -> str:
    violated = ", ".join(sorted(one.violates)) or "none"
    return f"{one.row:>2}  {one.name:<30}  violated by {violated:<13}  {one.what}"


def campaign(name: str, target_names: Sequence[str], scenario_names: Sequence[str], search: Search, run: Run) -> None:
    """Explore every cell with progress, then write and print what was found."""
    from podrace.simulator.app import directed, expected, runs
    from podrace.simulator.app.helping import Job
    from podrace.simulator.interrupts import Interrupted
    from podrace.simulator.servers.connection import open_server

    path, accept, seed = search.expect, search.accept, search.seed
    known = expected.load(path) if path and (path.exists() or not accept) else None
    if path and not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise UsageError(f"expectations {path}: expected a folder that is there")
    code = None
    cells: list[Cell] = []
    with ExitStack() as stack:
        with show.kept_apart() as apart:
            places = _places(target_names, scenario_names)
            if name == "explore" and isinstance(places[0][0], directed.Directed):
                raise UsageError(
                    f"scenario {scenario_names[0]}: it takes a whole fleet; podrace run --scenario runs it"
                )
            jobs = [Job(target.name, one.name, search.bounds, seed) for one, target in places]
            server = stack.enter_context(open_server(run.redis_url))
            folder = apart.folder = stack.enter_context(runs.run_folder(run.run_dir, name))
            try:
                for cell in _explored(jobs, server, folder, search):
                    cells.append(known.applied(cell) if known and not accept else cell)
            except Interrupted as error:
                cells += [error.so_far] if error.so_far else []
                if name == "explore" or (name == "matrix" and not cells):
                    raise
                code = error.exit_code
                left = [
                    runs.unjudged(one, target.name, "free" if isinstance(one, directed.Directed) else "inline")
                    for one, target in places[len(cells) :]
                ]
                cells += [replace(cell, note="interrupted") for cell in left]
        if path and accept and code is None:
            expected.save(path, cells)
            cells = [expected.load(path).applied(cell) for cell in cells]
        shown = (lambda: show.cell(cells[0])) if name == "explore" else (lambda: show.matrix(cells))
        show.conclude(run, folder, server.info, seed, cells, shown, code=code, summary=name == "matrix")


def _places(
    target_names: Sequence[str], scenario_names: Sequence[str]
) -> list[tuple[Scenario | Directed, NamedTarget]]:
    """Every scenario with every target. Raises UsageError where one cannot be loaded, or a target is named twice."""
    from podrace.simulator.app import directed
    from podrace.simulator.target import load_target

    targets = [named_target(name) for name in target_names]
    chosen = [directed.named(name) or named_scenario(name) for name in scenario_names]
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise UsageError(f"target {target.name!r} is named twice; expected each once")
        load_target(target.path)
    return [(one, target) for one in chosen for target in targets]


def _explored(jobs: Sequence[Job], server: Server, folder: Path, search: Search) -> Iterator[Cell]:
    """Explore the cells and show the progress."""
    from podrace.simulator.app import workers

    single = len(jobs) == 1
    count = search.workers if server.embedded else 1
    with ExitStack() as stack:
        bar = stack.enter_context(show.Bar("schedules" if single else "cells", None if single else len(jobs)))

        def tell(job: Job, schedules: int) -> None:
            bar.advance(int(single), f"{job.target} {job.scenario} {schedules} schedules")

        client = stack.enter_context(workers.scheduler(search.scheduler)) if search.scheduler is not None else None
        there = workers.each_of(client) if client else []
        if client and len(jobs) >= len(there):
            found = workers.explore_there(jobs, workers.all_of(client), folder)
        elif client:
            found = workers.explore_here(jobs, server, folder, tell, lambda: there)
        elif len(jobs) >= count > 1:
            found = workers.explore_there(jobs, stack.enter_context(workers.processes(count)), folder)
        elif count > 1:
            found = workers.explore_here(jobs, server, folder, tell, stack.enter_context(workers.team(count - 1)))
        else:
            found = workers.explore_here(jobs, server, folder, tell)
        for number, cell in enumerate(found, 1):
            yield cell
            if not single:
                bar.advance(1, " ".join((jobs[number].target, jobs[number].scenario)) if number < len(jobs) else "")
