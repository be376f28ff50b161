"""`podrace run`: many pods, many users, faults at random moments, and a verdict over all of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from podrace.simulator.app import show, timeline
from podrace.simulator.app.commands.explore import campaign
from podrace.simulator.app.names import named_target, named_workload
from podrace.simulator.app.options import (
    TARGET_HELP,
    Finite,
    Names,
    Run,
    Search,
    Whole,
    refuse_beside,
    run_options,
    seed_option,
)
from podrace.simulator.errors import users_errors_as_target_errors

if TYPE_CHECKING:
    from podrace.simulator.app.free_run import FreeRun

SHOWN = 8
"""Findings that are printed; all are in the run's folder."""


@click.command()
@click.option("--target", default="shared", help=TARGET_HELP)
@click.option(
    "--then",
    default=None,
    metavar="TARGET",
    help="Replace the pods during the run, one after the other, by pods of this target.",
)
@click.option("--pods", type=Whole(1, 64), default=8, help="How many pods run.")
@click.option("--users", type=Whole(1, 4000), default=50, help="How many users there are at a time.")
@click.option("--messages", type=Whole(1, 10_000_000), default=5000, help="How many messages all users hand in.")
@click.option("--faults", type=Names(), default="all", metavar="A,B", help="Faults that are named below; all, or none.")
@click.option(
    "--duration",
    type=Finite(min=0.0),
    default=30.0,
    help="The seconds over which the messages are spread; 0: as fast as can be.",
)
@click.option(
    "--persistence",
    type=click.Choice(["always", "everysec", "none"]),
    default="always",
    help="How often the server writes to its disk.",
)
@click.option("--workload", metavar="MODULE:NAME", help="Your own workload, with clients.  [default: uploads]")
@click.option(
    "--scenario",
    type=Names(),
    metavar="A,B",
    help="Instead, a short run of each of these failure modes; all: of every one.",
)
@seed_option
@run_options
def run(target: str, scenario: list[str] | None, seed: int, run: Run, **wanted: Any) -> None:
    """Run a fleet free, with faults, and judge all that it did.

    The pods are real, and so is the clock; users call any pod, and faults strike at moments drawn from the seed. At
    the end everything heals, the pods are asked until nothing moves, and the whole history is judged.

    Faults: noop, kill, pause, skew, restart-server, crash-machine, failover, server-full, evict, drop-subscribers,
    cut, latency, partition, gemini; `all` is all but crash-machine, failover and evict.
    """
    if scenario is None:
        _run(target, seed, run, **wanted)
    else:
        refuse_beside("--scenario", *wanted)
        _run_directed(target, scenario, seed, run)


def _run(
    target_name: str,
    seed: int,
    run: Run,
    *,
    then: str | None,
    faults: list[str],
    duration: float,
    persistence: str,
    workload: str | None,
    **sizes: Any,
) -> None:
    from podrace.simulator.app import free_run, runs
    from podrace.simulator.app.directed import PERSISTENCE
    from podrace.simulator.fleets import chaos
    from podrace.simulator.fleets.processes import warm_up
    from podrace.simulator.servers.connection import open_server

    chosen = chaos.named(faults)
    with ExitStack() as stack:
        apart = stack.enter_context(show.kept_apart())
        target, chosen_workload = named_target(target_name), named_workload(workload)
        after = named_target(then).path if then else ""
        plan = free_run.Plan(target=target.path, then=after, faults=chosen, duration_s=duration, seed=seed, **sizes)
        warm_up([target.path])
        server = stack.enter_context(open_server(run.redis_url, PERSISTENCE[persistence]))
        folder = apart.folder = stack.enter_context(runs.run_folder(run.run_dir, "run"))
        what = f"{plan.pods} pods, {plan.users} users, faults: {', '.join(chosen) or 'none'}"
        cell = runs.Cell(target.name, "run", "free", "", "holds", {}, what=what)
        with users_errors_as_target_errors(), show.Bar("run", None) as bar:
            found = free_run.run_free(cell, plan, chosen_workload, server, folder, partial(bar.advance, 0))
    shown = partial(click.echo, "\n".join(_summary(found)))
    found.write_shown(folder)
    show.conclude(run, folder, server.info, seed, [found.cell], shown, code=found.interrupted)


def _run_directed(target: str, names: list[str], seed: int, run: Run) -> None:
    """One short run after the other, each on a server of its own, told as a matrix."""
    from podrace.simulator.app import directed
    from podrace.simulator.search.frontier import Bounds

    directed.refuse_foreign(run.redis_url)
    chosen = directed.DIRECTED if names == ["all"] else [directed.find(name) for name in names]
    search = Search(Bounds(), expect=None, accept=False, seed=seed, workers=1, scheduler=None)
    campaign("run", [target], [one.name for one in chosen], search, run)


def counted(counts: Mapping[str, int]) -> str:
    """What was counted, in words. What a workload counts by a name of its own is a part of what was accepted."""
    from podrace.simulator.judge.findings import KINDS

    totals = ("accepted", "delivered", *KINDS)
    parts = ", ".join(f"{count} {word}" for word, count in counts.items() if count and word not in totals)
    totals_shown = [f"{word} {counts[word]}" for word in totals if counts.get(word)]
    return ", ".join([f"{totals_shown[0]} ({parts})", *totals_shown[1:]] if totals_shown and parts else totals_shown)


def _summary(found: FreeRun) -> list[str]:
    cell, details = found.cell, found.cell.details
    lines = [f"{cell.target}  {cell.verdict}: {counted(cell.counts)}"]
    if cell.note:
        lines.append(f"{cell.target}  {cell.note}")
    if found.since:
        lines.append(f"{cell.target}  what the pods that came later have promised: {found.since.cell.words}")
    operations, busy_s = details["operations"], details["busy_s"]
    rate = operations / busy_s if busy_s else 0.0
    lines.append(
        f"{operations} operations in {busy_s:.1f} s ({rate:.0f}/s), at rest after {details['rest_s']:.1f} s more"
    )
    struck = ", ".join(f"{name} {count}" for name, count in sorted(details["struck"].items())) or "none"
    lines.append(f"faults: {struck}")
    objects = details["judged_objects"]
    lines.append(f"linearizable: {objects - len(details['objects'])} of {objects} uploads' statuses")
    sentences = [finding["sentence"] for finding in details["findings"]]
    lines += [f"  {one}" for one in sentences[:SHOWN]]
    if len(sentences) > SHOWN:
        lines.append(f"  and {len(sentences) - SHOWN} more")
    if found.shown:
        lines += ["", timeline.draw(found.shown, width=show.width()), "", cell.sentence]
    return lines
