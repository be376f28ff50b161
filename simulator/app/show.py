"""What the command line prints: tables, timelines, progress. Colour only where the output is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.scenarios.catalogue import Scenario

PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.1


def matrix(cells: Sequence[Cell], chosen: Sequence[Scenario]) -> None:
    """The matrix as a table, what could not be judged below it, and what it took."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("#", "failure mode", *dict.fromkeys(cell.target for cell in cells)):
        table.add_column(heading, justify="right" if heading == "#" else "left")
    for scenario in chosen:
        row = [Text(str(scenario.row)), Text(scenario.name)]
        for cell in (cell for cell in cells if cell.scenario == scenario.name):
            unexpected = cell.verdict != cell.expected
            style = "yellow" if cell.verdict == "inconclusive" else "red" if cell.verdict == "violated" else "green"
            row.append(Text(cell.words + (" (unexpected)" if unexpected else ""), style=style))
        table.add_row(*row)
    console = Console()
    console.print(table)
    for cell in cells:
        if cell.verdict == "inconclusive":
            console.print(f"{cell.target} {cell.scenario}: {cell.note}", style="yellow", highlight=False)
    runs = sum(cell.schedules.get("run", 0) for cell in cells)
    took_s = sum(cell.elapsed_s for cell in cells)
    console.print(f"{len(cells)} cells, {runs} schedules, {took_s:.1f} s", highlight=False)


def cell(cell: Cell) -> None:
    """One cell: the verdict, what was covered, the counterexample as a timeline."""
    from podrace.simulator.app import counterexample, timeline
    from podrace.simulator.history.events import read_history

    schedules = cell.schedules
    if schedules:
        covered = "all within the bounds" if schedules["complete"] else "not all within the bounds"
        click.echo(
            f"{cell.target}  {cell.scenario}  {cell.verdict}: {cell.words}  ({schedules['run']} schedules run, "
            f"{schedules['pruned']} pruned as equivalent, {covered}, {cell.elapsed_s:.2f} s)"
        )
    if cell.note:
        click.echo(f"{cell.target}  {cell.scenario}  {cell.verdict}: {cell.note}")
    if cell.counterexample:
        path = Path(cell.counterexample)
        events = read_history(path.with_name(path.name.removesuffix(".podrace.json") + ".history.jsonl"))
        deciding = next((number for number, event in enumerate(events) if event.get("deciding")), None)
        click.echo("\n" + timeline.draw(events, deciding, width=width()))
        click.echo(f"\n{counterexample.load(path).sentence}\n")
        click.echo(f"again: podrace replay {path}")


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal and the work takes more than a second.

    Yields what is to be called with the number of steps done since; `total=None` where nobody knows it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=total)
    due_s = time.monotonic() + PROGRESS_AFTER_S
    waiting = 0

    def advance(steps: int) -> None:
        nonlocal due_s, waiting
        waiting += steps
        if time.monotonic() < due_s:
            return
        if not progress.live.is_started:
            progress.start()
        progress.advance(task, waiting)
        waiting, due_s = 0, time.monotonic() + PROGRESS_EVERY_S

    try:
        yield advance
    finally:
        progress.stop()


def width() -> int:
    """Columns to draw in: the terminal's, or 118 where the output is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else 118
