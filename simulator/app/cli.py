"""The `podrace` command: the only place that knows every room. Imports are lazy: `--help` answers at once."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from podrace.simulator.app import show
from podrace.simulator.app.names import PARTS, TARGETS, named_scenario, named_target
from podrace.simulator.app.options import (
    SCENARIO_HELP,
    TARGET_HELP,
    Finite,
    Folder,
    Names,
    Run,
    bounds_options,
    expect_options,
    run_options,
    seed_option,
)
from podrace.simulator.errors import PodraceError, TargetError, UsageError

if TYPE_CHECKING:
    from podrace.simulator.app.campaign import NamedScenario, NamedTarget
    from podrace.simulator.app.counterexample import SavedSchedule
    from podrace.simulator.app.expected import Expected
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.search.frontier import Bounds
    from podrace.simulator.search.lab import Lab
    from podrace.simulator.servers.connection import Server
    from podrace.simulator.servers.embedded import ServerInfo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="podrace")
def cli() -> None:
    """Make cross-pod races happen on purpose: lost uploads, crashes, lost replies, expired leases.

    Exit codes: 0 every verdict as expected, 1 a property is violated, 2 wrong usage, 3 inconclusive,
    4 the harness itself failed.
    """


@cli.command()
@click.option("--pods", type=click.IntRange(1, 64), default=2, show_default=True, help="Pods of each fleet.")
@click.option("--uploads", type=click.IntRange(1, 100_000), default=1, show_default=True, help="One image each.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR_OR_FILE",
    help="Your own PNG or JPEG files.  [default: generated screenshots]",
)
@seed_option
@run_options
def reproduce(pods: int, uploads: int, images: Path | None, seed: int, run: Run) -> None:
    """Show the lost image and its fix on real processes.

    With a real server and the real google-genai client. Pod A takes a message with an image, another pod
    absorbs it: `local` (status in the pod's memory) loses the image, `shared` (status in Redis) keeps it.
    """
    from podrace.simulator.app import moments, runs
    from podrace.simulator.app.images import identify, prepare
    from podrace.simulator.app.reproduce import Reproduction, Workload
    from podrace.simulator.fleets import guarded
    from podrace.simulator.fleets import processes as fleet
    from podrace.simulator.history.events import Words, readable, write_history
    from podrace.simulator.servers.connection import open_server
    from podrace.simulator.servers.files_api import FilesApi

    targets = {name: TARGETS[name] for name in ("local", "shared")}
    fleet.warm_up([*PARTS.values(), *targets.values()])
    with ExitStack() as stack:
        enter = stack.enter_context
        work = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-", dir=guarded.folder())))
        server = enter(open_server(run.redis_url))
        folder = enter(runs.run_folder(run.run_dir, "reproduce"))
        with show.progress_bar("images", uploads) as bar:
            paths = prepare(work, uploads, source=images, rng=random.Random(seed), progress=bar.advance)
        files = enter(FilesApi(identify=identify))
        bar = enter(show.progress_bar("uploads", uploads * len(targets)))
        workload = Workload(paths, pods, seed)
        found = {}
        for name, path in targets.items():
            one = Reproduction(
                path, workload, server=server, files=files, parts=PARTS, folder=work, progress=bar.advance
            )
            found[name] = one.run()
    cells = [
        runs.Cell(
            target=name,
            scenario="foreign-pod",
            fleet="processes",
            verdict=one.judgement.verdict,
            expected="violated" if name == "local" and pods > 1 else "holds",
            counts=one.judgement.counts,
            elapsed_s=round(one.elapsed_s, 3),
            words=", ".join(one.judgement.kinds) or "ok",
            row=1,
            sentence=one.judgement.findings[0].sentence if one.judgement.findings else "",
        )
        for name, one in found.items()
    ]
    told = {name: readable(one.events, Words(server.prefix, f"{work}/")) for name, one in found.items()}
    write_history(
        folder / "history.jsonl", ({"target": name} | event for name, events in told.items() for event in events)
    )
    timelines = {name: moments.moments(events) for name, events in told.items()}
    judgements = {name: one.judgement for name, one in found.items()}
    with (folder / "timelines.txt").open("w", encoding="utf-8") as file:
        moments.print_timelines(timelines, judgements, file=file)
    _conclude(run, folder, server.info, seed, cells, lambda: moments.print_timelines(timelines, judgements))


@cli.command()
@click.option("--target", default="shared", show_default=True, help=TARGET_HELP)
@click.option("--scenario", required=True, metavar="NAME", help=SCENARIO_HELP)
@bounds_options
@expect_options
@seed_option
@run_options
def explore(target: str, scenario: str, bounds: Bounds, expect: Path | None, accept: bool, seed: int, run: Run) -> None:
    """Search all schedules of a scenario within bounds.

    It holds, is violated (with the schedule), or is inconclusive. The counterexample has the fewest faults,
    then the fewest preemptions, then the fewest steps.
    """
    _campaign("explore", [named_target(target)], [named_scenario(scenario)], bounds, (expect, accept), seed, run)


@cli.command()
@click.option("--targets", type=Names(), default="local,shared", show_default=True, metavar="A,B", help=TARGET_HELP)
@click.option(
    "--scenarios", "names", type=Names(), metavar="NAME,NAME", help="Only these.  [default: all of the catalogue]"
)
@bounds_options
@expect_options
@seed_option
@run_options
def matrix(
    targets: list[str],
    names: list[str] | None,
    bounds: Bounds,
    expect: Path | None,
    accept: bool,
    seed: int,
    run: Run,
) -> None:
    """Explore every failure mode against every target.

    The run's folder gets matrix.md, result.json and every counterexample. Ctrl-C keeps what is there.
    """
    from podrace.simulator.scenarios.catalogue import SCENARIOS

    chosen = [named_scenario(name) for name in names or [scenario.name for scenario in SCENARIOS]]
    _campaign("matrix", [named_target(name) for name in targets], chosen, bounds, (expect, accept), seed, run)


@cli.command()
@click.argument("file", type=Folder(path_type=Path))
@click.option("--fleet", type=click.Choice(["inline", "processes"]), default="processes", show_default=True)
@run_options
def replay(file: Path, fleet: str, run: Run) -> None:
    """Run a counterexample's very schedule again.

    It is shown as a timeline. On processes every step of real pods is let go by the scheduler; it exits 0
    when the verdict is the same.
    """
    from podrace.simulator.app import campaign, counterexample, runs
    from podrace.simulator.servers.connection import open_server

    saved = counterexample.load(file)
    target, named = named_target(saved.target), named_scenario(saved.scenario)
    if fleet == "processes":
        from podrace.simulator.fleets.processes import warm_up

        warm_up([*PARTS.values(), target.path])
    with ExitStack() as stack:
        server = stack.enter_context(open_server(run.redis_url))
        folder = stack.enter_context(runs.run_folder(run.run_dir, "replay"))
        with show.kept_apart(folder):
            lab = campaign.lab_for(fleet, server, target, named.scenario, seed=saved.seed, parts=PARTS)
            stack.enter_context(lab)
            cell, shown = _replay(lab, saved, target, fleet, folder)
        cell = replace(cell, counterexample=str(file))
        _conclude(run, folder, server.info, saved.seed, [cell], lambda: click.echo(shown))


def _replay(lab: Lab, saved: SavedSchedule, target: NamedTarget, fleet: str, folder: Path) -> tuple[Cell, str]:
    """What the schedule did this time, as a cell and as what is shown."""
    from podrace.simulator.app import campaign, runs, timeline
    from podrace.simulator.fleets.inline import watchdog
    from podrace.simulator.history.events import write_history
    from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE

    began_s = time.monotonic()
    cell = runs.Cell(target.name, saved.scenario, fleet, INCONCLUSIVE, saved.verdict, {})
    try:
        with watchdog(lab.moves) if fleet == "inline" else nullcontext():  # others are watched step by step
            again = campaign.replay(lab, saved)
    except TargetError as error:
        return replace(cell, note=str(error)), f"inconclusive: {error}"
    words = again.judgement.words
    same = again.judgement.verdict if words == saved.words else HOLDS if words == "ok" else INCONCLUSIVE
    elapsed_s = round(time.monotonic() - began_s, 3)
    cell = replace(cell, verdict=same, counts=again.judgement.counts, words=words, elapsed_s=elapsed_s)
    write_history(folder / "history.jsonl", campaign.mark(again.events, again.deciding))
    text = timeline.draw(again.events, again.deciding, width=show.width())
    return cell, f"{text}\n\n{again.sentence}\n{words}: expected {saved.words}"


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="[default: report.html, .md, .xml, or report-svg/]"
)
@click.option(
    "--format", "form", type=click.Choice(["html", "markdown", "junit", "svg"]), default="html", show_default=True
)
def report(runs: tuple[Path, ...], out: Path | None, form: str) -> None:
    """Report on runs, load tests and benchmarks.

    In one file: a page, Markdown or JUnit XML; or the SVGs alone. Of several benchmark files the first is the
    baseline. Exits 3 where nothing could be read.
    """
    from podrace.reports.build import build
    from podrace.reports.matrix import verdict

    defaults = {"html": "report.html", "markdown": "report.md", "junit": "report.xml", "svg": "report-svg"}
    out = out or Path(defaults[form])
    try:
        made = build(runs, out=out, format=form)
    except OSError as error:
        raise UsageError(f"report {out}: expected a place that can be written: {error.strerror or error}") from error
    for skipped in made.skipped:
        click.echo(f"podrace: left out: {skipped.path}: {skipped.reason}", err=True)
    click.echo(f"{verdict(made)[1]}\nreport: {out}")
    raise SystemExit(0 if made.runs else 3)


@cli.command("bench-compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--limit", type=Finite(min=1.0), default=1.1, show_default=True, help="Growth allowed.")
@seed_option
@click.option("--accept", is_flag=True, help="Write AFTER's ratios into BEFORE instead.")
def bench_compare(before: Path, after: Path, limit: float, seed: int, accept: bool) -> None:
    """Compare two benchmark files by their ratios.

    Ratios are to the floor of the same run. Exits 1 past the limit.
    """
    from podrace.reports import compare
    from podrace.simulator.app import runs

    try:
        if accept:
            runs.write_json(before, compare.reference_ratios(after))
            return
        found = compare.compare(before, after, limit=limit, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    click.echo(compare.as_text(found))
    raise SystemExit(0 if found.passed else 1)


@cli.command()
def scenarios() -> None:
    """List the scenarios and who is expected to fail.

    One line each: the failure mode's number, a name, the targets expected to violate it, what it shows.
    """
    from podrace.simulator.scenarios.catalogue import SCENARIOS

    for scenario in SCENARIOS:
        violated = ", ".join(sorted(scenario.violates)) or "none"
        click.echo(f"{scenario.row:>2}  {scenario.name:<30}  violated by {violated:<13}  {scenario.what}")


def _campaign(
    name: str,
    targets: Sequence[NamedTarget],
    chosen: Sequence[NamedScenario],
    bounds: Bounds,
    expectations: tuple[Path | None, bool],
    seed: int,
    run: Run,
) -> None:
    """Explore every cell with progress, then write and print what was found."""
    from podrace.simulator.app import expected, runs
    from podrace.simulator.servers.connection import open_server
    from podrace.simulator.target import load_target

    for target in targets:
        load_target(target.path)
    path, accept = expectations
    known = expected.load(path) if path and not accept else None
    interrupted = False
    with ExitStack() as stack:
        server = stack.enter_context(open_server(run.redis_url))
        folder = stack.enter_context(runs.run_folder(run.run_dir, name))
        cells: list[Cell] = []
        try:
            with show.kept_apart(folder):
                places = [(one, target) for one in chosen for target in targets]
                _explore_all(server, places, bounds, known, seed, folder, cells)
        except KeyboardInterrupt:
            if name != "matrix" or not cells:
                raise
            interrupted = True
            cells += _unexplored(chosen, targets, cells)
        if path and accept and not interrupted:
            expected.save(path, cells)
            cells = [expected.load(path).applied(cell) for cell in cells]
        shown = (lambda: show.matrix(cells)) if name == "matrix" else (lambda: show.cell(cells[0]))
        if name == "matrix":
            _write_markdown(folder, server.info, seed, cells)
        _conclude(run, folder, server.info, seed, cells, shown, code=130 if interrupted else None)


def _explore_all(
    server: Server,
    places: Sequence[tuple[NamedScenario, NamedTarget]],
    bounds: Bounds,
    known: Expected | None,
    seed: int,
    folder: Path,
    cells: list[Cell],
) -> None:
    """Explore the places one after the other; each cell is put into the list as soon as it is there."""
    from podrace.simulator.app import campaign

    single = len(places) == 1
    with show.progress_bar("schedules" if single else "cells", None if single else len(places)) as bar:
        for named, target in places:
            bar.about(f"{target.name} {named.name}")
            cell = campaign.explore_cell(
                server,
                target,
                named,
                bounds,
                seed=seed,
                folder=folder,
                parts=PARTS,
                progress=lambda schedules: bar.advance(int(single), f"{schedules} schedules"),
            )
            cells.append(known.applied(cell) if known else cell)
            bar.advance(int(not single))


def _unexplored(chosen: Sequence[NamedScenario], targets: Sequence[NamedTarget], cells: Sequence[Cell]) -> list[Cell]:
    """The cells that an interrupted matrix has not come to."""
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.judge.findings import INCONCLUSIVE

    places = [(one, target) for one in chosen for target in targets][len(cells) :]
    return [
        Cell(
            target=target.name,
            scenario=one.name,
            fleet="inline",
            verdict=INCONCLUSIVE,
            expected=one.scenario.expected(target.name),
            counts={},
            words=INCONCLUSIVE,
            note="interrupted",
            row=one.scenario.row,
            what=one.scenario.what,
        )
        for one, target in places
    ]


def _write_markdown(folder: Path, server: ServerInfo, seed: int, cells: list[Cell]) -> None:
    """The matrix as Markdown, as reports have it."""
    from podrace.reports.build import build
    from podrace.simulator.app import runs

    runs.write_json(folder / runs.RESULT, _document(folder, server, seed, cells))
    build([folder], out=folder / "matrix.md", format="markdown")


def _document(folder: Path, server: ServerInfo, seed: int, cells: list[Cell]) -> dict[str, Any]:
    from podrace.simulator.app import runs
    from podrace.simulator.servers.connection import redact

    typed = [redact(word) if "://" in word else word for word in sys.argv[1:]]  # it may hold a password
    return runs.result_document(typed, seed=seed, run=folder, server=server, cells=cells)


def _conclude(
    run: Run,
    folder: Path,
    server: ServerInfo,
    seed: int,
    cells: list[Cell],
    show_it: Callable[[], None],
    *,
    code: int | None = None,
) -> NoReturn:
    """Write the result form into the run's folder, print it or show it, and end with the exit code of the verdicts."""
    from podrace.simulator.app import runs

    document = _document(folder, server, seed, cells)
    runs.write_json(folder / runs.RESULT, document)
    try:
        if run.as_json:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            show_it()
            click.echo(f"run: {folder}")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has read enough: that changes no verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(runs.exit_code(cells) if code is None else code)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors become one line and the exit code that says whose fault it was."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        return cli.main(arguments, prog_name="podrace", standalone_mode=False)
    except click.ClickException as error:
        code = _tell_misuse(error)
    except PodraceError as error:
        notes = getattr(error, "__notes__", [])  # for one, of keys that could not be deleted
        click.echo("podrace: " + "; ".join([str(error), *notes]).replace("\n", " "), err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("podrace: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        from podrace.simulator.app.runs import unexpected

        click.echo(f"podrace: {unexpected(error)}", err=True)
        code = 4
    sys.exit(code)


def _tell_misuse(error: click.ClickException) -> int:
    message = error.format_message()
    if "\n" in message and isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "podrace"
        click.echo(f"podrace: {message} Try {command} --help.".replace("\n", " "), err=True)
    return 2
