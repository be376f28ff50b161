"""The end of every command that judges: write the result, print or show it, exit with the verdicts' code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from podrace.simulator.app.options import Run

if TYPE_CHECKING:
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.servers.embedded import ServerInfo


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
