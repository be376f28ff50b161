"""What the command line prints: tables, timelines, progress, results. Colour only where the output is a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import click

from podrace.simulator.app.options import Run

if TYPE_CHECKING:
    from rich.console import Console

    from podrace.simulator.app.runs import Cell
    from podrace.simulator.servers.embedded import ServerInfo

PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.1
LEAST_COLUMNS, FILE_COLUMNS = 40, 118
OUTPUT = "target-output.txt"
"""What targets print goes into this file of the run's folder."""


def matrix(cells: Sequence[Cell]) -> None:
    """Print the matrix as a table, then the notes of unexpected cells, the legend and the totals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from podrace.reports.matrix import LEGEND

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("#", "failure mode", *dict.fromkeys(cell.target for cell in cells)):
        table.add_column(heading, justify="right" if heading == "#" else "left")
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.scenario, []).append(cell)
    for scenario, cells_of_row in sorted(rows.items(), key=lambda row: row[1][0].row):
        mark = {True: "", False: " (unexpected)"}
        texts = [Text(cell.words + mark[cell.is_expected], style=_style(cell)) for cell in cells_of_row]
        table.add_row(Text(str(cells_of_row[0].row or "")), Text(scenario), *texts)
    out = _console(width=width())
    out.print(table)
    for cell in cells:
        if cell.note and (cell.verdict == "inconclusive" or not cell.is_expected):
            out.print(
                f"{cell.target} {cell.scenario}: {' '.join(cell.note.split())}",
                style="yellow",
                highlight=False,
            )
    out.print(" · ".join(f"{word}: {meaning}" for word, meaning in LEGEND.items()), style="dim", highlight=False)
    runs = sum(cell.schedules.get("run", 0) for cell in cells)
    skipped = sum(cell.verdict == "not-applicable" for cell in cells)
    took_s = sum(cell.elapsed_s for cell in cells)
    apart = f", {skipped} of them –" if skipped else ""
    out.print(f"{counted(len(cells), 'cell')}{apart}, {counted(runs, 'schedule')}, {took_s:.1f} s", highlight=False)


def counted(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" + "s" * (count != 1)


def _style(cell: Cell) -> str:
    styles = {"inconclusive": "yellow", "violated": "red", "not-applicable": "dim"}
    return styles.get(cell.verdict, "green")


def cell(cell: Cell) -> None:
    """Print one cell: the verdict, what was covered, and the counterexample as a timeline."""
    from podrace.simulator.app import counterexample, timeline
    from podrace.simulator.history.events import read_history

    schedules = cell.schedules
    if schedules:
        covered = "all within the bounds" if schedules["complete"] else "not all within the bounds"
        run = counted(schedules["run"], "schedule")
        click.echo(
            f"{cell.target}  {cell.scenario}  {cell.verdict}: {cell.words}  ({run} run, "
            f"{schedules['pruned']} pruned as equivalent, {covered}, {cell.elapsed_s:.2f} s)"
        )
    if cell.verdict == "holds" and not cell.is_expected:
        click.echo(f"{cell.target}  {cell.scenario}  expected {cell.expected}")
    if cell.note:
        click.echo(f"{cell.target}  {cell.scenario}  {cell.verdict}: {' '.join(cell.note.split())}")
    if cell.counterexample:
        path = Path(cell.counterexample)
        events = read_history(path.with_name(path.name.removesuffix(".podrace.json") + ".history.jsonl"))
        click.echo("\n" + timeline.draw(events, width=width()))
        click.echo(f"\n{counterexample.load(path).sentence}\n")
        click.echo(f"again: {shlex.join(['podrace', 'replay', str(path)])}")


class Bar:
    """A progress bar on standard error, shown if that is a terminal and the work takes more than a second.

    It is removed at the end of the block. `total=None` if the total is unknown.
    """

    def __init__(self, title: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = _console(stderr=True)
        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=total)
        self._due_s = time.monotonic() + PROGRESS_AFTER_S
        self._about = ""
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, steps: int, about: str = "") -> None:
        """Count this many more steps as done, and say what is being done."""
        self._waiting += steps
        self._about = about or self._about
        if time.monotonic() < self._due_s:
            return
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(self._task, advance=self._waiting, description=self._about)
        self._waiting, self._due_s = 0, time.monotonic() + PROGRESS_EVERY_S


@dataclass
class Apart:
    """Where the target's output goes: `folder` is set to the run's as soon as that exists."""

    folder: Path | None = None


@contextmanager
def kept_apart() -> Iterator[Apart]:
    """Keep what the target, its modules and its processes print and log out of our own output.

    It goes into the run's folder, or to standard error if the run never gets one.
    """
    apart = Apart()
    ours = sys.stdout
    ours.flush()
    descriptor = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        sys.stdout = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        log = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - the target may close ours
        handler = logging.StreamHandler(log)  # without one, warnings go to standard error
        logging.getLogger().addHandler(handler)
        try:
            yield apart
        finally:
            logging.getLogger().removeHandler(handler)
            log.close()
            sys.stdout.close()
            sys.stdout = ours
            os.dup2(descriptor, 1)
            os.close(descriptor)
            file.seek(0)
            if printed := file.read():
                _keep(printed, apart.folder)


def _keep(printed: bytes, folder: Path | None) -> None:
    if folder is None or not folder.is_dir():
        click.echo(printed.decode(errors="replace"), err=True, nl=False)
    else:
        with (folder / OUTPUT).open("ab") as file:
            file.write(printed)


def conclude(
    run: Run,
    folder: Path,
    server: ServerInfo,
    seed: int,
    cells: list[Cell],
    show_it: Callable[[], None],
    *,
    code: int | None = None,
    summary: bool = False,
) -> NoReturn:
    """Write the result form into the run's folder, print it or show it, and end with the exit code of the verdicts.

    With a `summary`, the Markdown that `podrace report` makes of the run is written too.
    """
    from podrace.simulator.app import runs
    from podrace.simulator.servers.connection import redact

    typed = [redact(word) if "://" in word else word for word in sys.argv[1:]]  # it may hold a password
    result = runs.result_document(typed, seed=seed, run=folder, server=server, cells=cells)
    runs.write_json(folder / runs.RESULT, result)
    if summary:
        from podrace.reports.build import build

        build([folder], out=folder / "matrix.md", format="markdown")
    if run.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        show_it()
        click.echo(f"run: {folder}")
    raise SystemExit(runs.exit_code(cells) if code is None else code)


def width() -> int:
    """The columns to draw in: COLUMNS, else the terminal's width, or 118 if there is no terminal; at least 40."""
    wanted = os.environ.get("COLUMNS", "")
    if re.fullmatch("0*[1-9][0-9]{0,3}", wanted):
        return max(LEAST_COLUMNS, int(wanted))
    try:
        return max(LEAST_COLUMNS, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return FILE_COLUMNS


def _console(**options: Any) -> Console:
    """A console without markup, which would change the user's names. Rich fails at a COLUMNS such as ²."""
    from rich.console import Console

    environment = {name: value for name, value in os.environ.items() if value.isascii()}
    return Console(**options, markup=False, emoji=False, _environ=environment)
