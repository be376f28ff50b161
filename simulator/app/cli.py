"""The `podrace` command: the only place that knows every room. Imports are lazy: `--help` answers at once."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from podrace.simulator.app import show
from podrace.simulator.errors import PodraceError, TargetError, UsageError

if TYPE_CHECKING:
    from podrace.simulator.app.campaign import NamedTarget
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.scenarios.catalogue import Scenario
    from podrace.simulator.search.frontier import Bounds
    from podrace.simulator.servers.embedded import ServerInfo

PARTS = {"memory": "podrace.reference.memory:MemoryLedger", "gemini": "podrace.reference.gemini:GeminiFiles"}
"""The real parts that a pod's process builds, by name: the simulator imports none of them."""

TARGETS = {"local": "podrace.reference.targets:local", "shared": "podrace.reference.targets:shared"}

Command = Callable[..., None]
TARGET_HELP = "local, shared, or your own as module:factory."
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of all randomness."
)


@dataclass(frozen=True)
class Run:
    """What every command that judges is asked: on which server, and where its results go."""

    redis_url: str | None
    as_json: bool
    run_dir: Path | None


def run_options(command: Command) -> Command:
    """The options of every command that judges, handed over as one `run`."""

    @click.option(
        "--redis-url",
        envvar="PODRACE_REDIS_URL",
        metavar="URL",
        help="Use this Redis or Valkey (redis://, rediss://, unix://) instead of the embedded server.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
    @click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write the run here.  [default: runs/<time>-<name>]",
    )
    @wraps(command)
    def with_run(*, redis_url: str | None, as_json: bool, run_dir: Path | None, **others: Any) -> None:
        command(run=Run(redis_url, as_json, run_dir), **others)

    return with_run


def bounds_options(command: Command) -> Command:
    """The bounds of a search, handed over as one `bounds`."""

    @click.option("--preemptions", type=click.IntRange(0, 8), default=2, show_default=True, help="At most.")
    @click.option("--faults", type=click.IntRange(0, 4), default=1, show_default=True, help="At most so many.")
    @click.option("--budget", type=click.FloatRange(min=0.1), default=60.0, show_default=True, metavar="SECONDS")
    @wraps(command)
    def with_bounds(*, preemptions: int, faults: int, budget: float, **others: Any) -> None:
        from podrace.simulator.search.frontier import Bounds

        command(bounds=Bounds(preemptions=preemptions, faults=faults, budget_s=budget), **others)

    return with_bounds


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
    from podrace.simulator.history.events import write_history
    from podrace.simulator.servers.connection import open_server
    from podrace.simulator.servers.files_api import FilesApi

    targets = {name: TARGETS[name] for name in ("local", "shared")}
    fleet.warm_up([*PARTS.values(), *targets.values()])
    with ExitStack() as stack:
        enter = stack.enter_context
        work = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-", dir=guarded.folder())))
        server = enter(open_server(run.redis_url))
        folder = enter(runs.run_folder(run.run_dir, "reproduce"))
        with show.progress_bar("images", uploads) as advance:
            paths = prepare(work, uploads, source=images, rng=random.Random(seed), progress=advance)
        files = enter(FilesApi(identify=identify))
        advance = enter(show.progress_bar("uploads", uploads * len(targets)))
        workload = Workload(paths, pods, seed)
        found = {}
        for name, path in targets.items():
            one = Reproduction(path, workload, server=server, files=files, parts=PARTS, folder=work, progress=advance)
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
    write_history(
        folder / "history.jsonl",
        ({"target": name} | event for name, one in found.items() for event in one.events),
    )
    timelines = {name: moments.moments(one.events) for name, one in found.items()}
    judgements = {name: one.judgement for name, one in found.items()}
    with (folder / "timelines.txt").open("w", encoding="utf-8") as file:
        moments.print_timelines(timelines, judgements, file=file)
    _conclude(run, folder, server.info, seed, cells, lambda: moments.print_timelines(timelines, judgements))


@cli.command()
@click.option("--target", default="shared", show_default=True, help=TARGET_HELP)
@click.option("--scenario", required=True, metavar="NAME", help="A name that `podrace scenarios` lists.")
@bounds_options
@seed_option
@run_options
def explore(target: str, scenario: str, bounds: Bounds, seed: int, run: Run) -> None:
    """Search all schedules of a scenario within bounds.

    It holds, is violated (with the schedule), or is inconclusive. The counterexample has the fewest faults,
    then the fewest preemptions, then the fewest steps.
    """
    from podrace.simulator.scenarios.catalogue import find

    _campaign("explore", [named_target(target)], [find(scenario)], bounds, seed, run)


@cli.command()
@click.option("--targets", default="local,shared", show_default=True, metavar="A,B", help=TARGET_HELP)
@click.option("--scenarios", "names", metavar="NAME,NAME", help="Only these.  [default: all]")
@bounds_options
@seed_option
@run_options
def matrix(targets: str, names: str | None, bounds: Bounds, seed: int, run: Run) -> None:
    """Explore every failure mode against every target.

    `--budget` is for each cell. The run's folder gets matrix.md, result.json and every counterexample.
    """
    from podrace.simulator.scenarios.catalogue import SCENARIOS, find

    chosen = [find(name.strip()) for name in names.split(",")] if names else list(SCENARIOS)
    _campaign("matrix", [named_target(name.strip()) for name in targets.split(",")], chosen, bounds, seed, run)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fleet", type=click.Choice(["inline", "processes"]), default="processes", show_default=True)
@run_options
def replay(file: Path, fleet: str, run: Run) -> None:
    """Run a counterexample's very schedule again.

    It is shown as a timeline. On processes every step of real pods is let go by the scheduler; it exits 0
    when the verdict is the same.
    """
    from podrace.simulator.app import campaign, counterexample, runs, timeline
    from podrace.simulator.fleets.inline import watchdog
    from podrace.simulator.history.events import write_history
    from podrace.simulator.judge.checks import HOLDS, INCONCLUSIVE
    from podrace.simulator.scenarios.catalogue import find
    from podrace.simulator.servers.connection import open_server

    saved = counterexample.load(file)
    target, scenario = named_target(saved.target), find(saved.scenario)
    if fleet == "processes":
        from podrace.simulator.fleets.processes import warm_up

        warm_up([*PARTS.values(), target.path])
    with ExitStack() as stack:
        server = stack.enter_context(open_server(run.redis_url))
        folder = stack.enter_context(runs.run_folder(run.run_dir, "replay"))
        lab = campaign.lab_for(fleet, server, target, scenario, seed=saved.seed, parts=PARTS)
        stack.enter_context(lab)
        began_s = time.monotonic()
        cell = runs.Cell(target.name, scenario.name, fleet, INCONCLUSIVE, saved.verdict, {}, counterexample=str(file))
        try:
            with watchdog(lab.moves) if fleet == "inline" else nullcontext():  # others are watched step by step
                again = campaign.replay(lab, saved)
        except TargetError as error:
            cell = replace(cell, note=str(error))
            shown = f"inconclusive: {error}"
        else:
            words = ", ".join(again.judgement.kinds) or "ok"
            same = again.judgement.verdict if words == saved.words else HOLDS if words == "ok" else INCONCLUSIVE
            elapsed_s = round(time.monotonic() - began_s, 3)
            cell = replace(cell, verdict=same, counts=again.judgement.counts, words=words, elapsed_s=elapsed_s)
            write_history(folder / "history.jsonl", campaign.mark(again.events, again.deciding))
            text = timeline.draw(again.events, again.deciding, width=show.width())
            shown = f"{text}\n\n{again.sentence}\n{words}: expected {saved.words}"
    _conclude(run, folder, server.info, saved.seed, [cell], lambda: click.echo(shown))


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
@click.option("--limit", type=click.FloatRange(min=1.0), default=1.25, show_default=True, help="Growth allowed.")
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


def named_target(text: str) -> NamedTarget:
    """`local`, `shared`, or `module:factory`."""
    from podrace.simulator.app.campaign import NamedTarget

    path = TARGETS.get(text, text)
    if ":" not in path:
        raise UsageError(f"target {text!r}: expected {', '.join(TARGETS)}, or module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script, unlike `python -m`, does not look in the current folder
    return NamedTarget(next((name for name in TARGETS if TARGETS[name] == path), text), path)


def _campaign(
    name: str, targets: list[NamedTarget], chosen: list[Scenario], bounds: Bounds, seed: int, run: Run
) -> None:
    """Explore every cell with progress, then write and print what was found."""
    from podrace.simulator.app import campaign, runs
    from podrace.simulator.servers.connection import open_server
    from podrace.simulator.target import load_target

    for target in targets:
        load_target(target.path)
    places = [(scenario, target) for scenario in chosen for target in targets]
    single = len(places) == 1
    cells = []
    with ExitStack() as stack:
        server = stack.enter_context(open_server(run.redis_url))
        folder = stack.enter_context(runs.run_folder(run.run_dir, name))
        bar = show.progress_bar("schedules", None) if single else show.progress_bar("cells", len(places))
        advance = stack.enter_context(bar)
        for scenario, target in places:
            cells.append(
                campaign.explore_cell(
                    server,
                    target,
                    scenario,
                    bounds,
                    seed=seed,
                    folder=folder,
                    progress=lambda schedules: advance(int(single)),
                )
            )
            advance(int(not single))
    if name == "matrix":
        (folder / "matrix.md").write_text(campaign.markdown(cells, chosen), encoding="utf-8")
    shown = (lambda: show.matrix(cells, chosen)) if name == "matrix" else (lambda: show.cell(cells[0]))
    _conclude(run, folder, server.info, seed, cells, shown)


def _conclude(
    run: Run, folder: Path, server: ServerInfo, seed: int, cells: list[Cell], show_it: Callable[[], None]
) -> NoReturn:
    """Write the result form into the run's folder, print it or show it, and end with the exit code of the verdicts."""
    from podrace.simulator.app import runs
    from podrace.simulator.servers.connection import redact

    typed = [redact(word) if "://" in word else word for word in sys.argv[1:]]  # it may hold a password
    document = runs.result_document(typed, seed=seed, run=folder, server=server, cells=cells)
    runs.write_json(folder / "result.json", document)
    if run.as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show_it()
        click.echo(f"run: {folder}")
    raise SystemExit(runs.exit_code(cells))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors become one line and the exit code that says whose fault it was."""
    try:
        return cli.main(arguments, prog_name="podrace", standalone_mode=False)
    except click.ClickException as error:
        message = error.format_message()
        if "\n" in message:  # the help, where no command was named
            error.show()
        else:
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "podrace"
            click.echo(f"podrace: {message} Try {command} --help.", err=True)
        code = 2
    except PodraceError as error:
        notes = getattr(error, "__notes__", [])  # for one, of keys that could not be deleted
        click.echo("podrace: " + "; ".join([str(error), *notes]), err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("podrace: interrupted", err=True)
        code = 130
    sys.exit(code)
