"""`podrace report` and `bench-compare`: what earlier runs say."""

from __future__ import annotations

from pathlib import Path

import click

from podrace.simulator.app.options import Finite, Folder, seed_option
from podrace.simulator.errors import UsageError

DEFAULTS = {"html": "report.html", "markdown": "report.md", "junit": "report.xml", "svg": "report-svg"}


@click.command()
@click.argument("runs", nargs=-1, required=True, type=Folder(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=Folder(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Where to write the report; - prints it.  [default: report.html, .md, .xml, or report-svg/]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(DEFAULTS)),
    default="html",
    help="The form of the report.",
)
def report(runs: tuple[Path, ...], out: Path | None, form: str) -> None:
    """Report on runs, load tests and benchmarks.

    The report is one file: a page, Markdown or JUnit XML; or it is the pictures alone, as SVG. The first of several
    benchmark files is the baseline. Exits 3 where something could not be read.
    """
    from podrace.reports.build import build, read_and_draw
    from podrace.reports.matrix import verdict

    out = out or Path(DEFAULTS[form])
    printed = str(out) == "-"
    if printed:
        made, text = read_and_draw(runs, format=form)
        if not isinstance(text, str):
            raise UsageError("report: --format svg makes several files; expected --out FOLDER, got -")
        click.echo(text, nl=False)
    else:
        try:
            made = build(runs, out=out, format=form)
        except OSError as error:
            raise UsageError(
                f"report {out}: expected a place that can be written: {error.strerror or error}"
            ) from error
    for skipped in made.skipped:
        click.echo(f"podrace: left out: {skipped.path}: {skipped.reason}", err=True)
    click.echo(verdict(made)[1], err=printed)
    if not printed:
        click.echo(f"report: {out}")
    raise SystemExit(0 if made.runs and not made.skipped else 3)


@click.command("bench-compare")
@click.argument("before", type=Folder(path_type=Path))
@click.argument("after", type=Folder(path_type=Path))
@click.option("--limit", type=Finite(min=1.0), default=1.1, help="By which factor a ratio may grow.")
@seed_option
@click.option("--accept", is_flag=True, help="Do not compare, but write the ratios of AFTER into BEFORE.")
def bench_compare(before: Path, after: Path, limit: float, seed: int, accept: bool) -> None:
    """Compare two benchmark files by their ratios.

    A ratio is that of an operation to the floor of the same run. Exits 1 where one has grown past the limit.
    """
    from podrace.reports import compare
    from podrace.simulator.app import runs

    try:
        if accept:
            ratios = compare.reference_ratios(after)
            if before.exists():
                compare.reference_ratios(before)  # raises if it is something else, which must not be overwritten
            runs.write_json(before, ratios)
            return
        found = compare.compare(before, after, limit=limit, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    click.echo(compare.as_text(found))
    raise SystemExit(0 if found.passed else 1)
