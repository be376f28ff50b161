"""`podrace replay`: the schedule of a counterexample once more."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podrace.simulator.app import show
from podrace.simulator.app.names import PARTS, named_target
from podrace.simulator.app.options import Folder, Run, run_options
from podrace.simulator.errors import TargetError

if TYPE_CHECKING:
    from podrace.simulator.app.counterexample import SavedSchedule
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.servers.connection import Server


@click.command()
@click.argument("file", type=Folder(path_type=Path))
@click.option("--fleet", type=click.Choice(["inline", "processes"]), default="processes", help="How the pods run.")
@run_options
def replay(file: Path, fleet: str, run: Run) -> None:
    """Run the schedule of a counterexample again.

    The run is shown as a timeline. On processes the pods are real, and the scheduler lets each step go in its turn.
    Exits 0 when the verdict is the same.
    """
    from podrace.simulator.app import counterexample, runs
    from podrace.simulator.servers.connection import open_server

    saved = counterexample.load(file)
    with ExitStack() as stack:
        with show.kept_apart() as apart:
            if fleet == "processes":
                from podrace.simulator.fleets.processes import warm_up

                warm_up([*PARTS.values(), named_target(saved.target).path])
            server = stack.enter_context(open_server(run.redis_url))
            folder = apart.folder = stack.enter_context(runs.run_folder(run.run_dir, "replay"))
            cell, shown = _replay(server, saved, fleet, folder)
        cell = replace(cell, counterexample=str(file))
        show.conclude(run, folder, server.info, saved.seed, [cell], lambda: click.echo(shown))


def _replay(server: Server, saved: SavedSchedule, fleet: str, folder: Path) -> tuple[Cell, str]:
    """Run the schedule. Returns the cell, and the text to show."""
    from podrace.simulator.app import campaign, runs, timeline
    from podrace.simulator.history.events import write_history
    from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE

    began_s = time.monotonic()
    cell = runs.Cell(named_target(saved.target).name, saved.scenario, fleet, INCONCLUSIVE, saved.verdict, {})
    try:
        again = campaign.replayed(server, saved, fleet)
    except TargetError as error:
        return replace(cell, note=str(error)), f"inconclusive: {error}"
    words = again.judgement.words
    same = again.judgement.verdict if words == saved.words else HOLDS if words == "ok" else INCONCLUSIVE
    elapsed_s = round(time.monotonic() - began_s, 3)
    cell = replace(cell, verdict=same, counts=again.judgement.counts, words=words, elapsed_s=elapsed_s)
    write_history(folder / "history.jsonl", again.events)
    text = timeline.draw(again.events, width=show.width())
    return cell, f"{text}\n\n{again.sentence}\n{words}: expected {saved.words}"
