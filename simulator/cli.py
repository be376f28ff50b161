"""The `podrace` command: the only place that knows every room. Imports are lazy: `--help` answers at once."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator import show
from simulator.errors import PodraceError

if TYPE_CHECKING:
    from simulator.campaign import NamedTarget
    from simulator.explore import Bounds
    from simulator.reproduce import Reproduced
    from simulator.scenarios import Scenario
    from simulator.server import ServerInfo

PARTS = {"memory": "reference.memory:MemoryLedger", "gemini": "reference.gemini:GeminiFiles"}
"""The real parts that a pod's process builds, by name: the simulator imports none of them."""

TARGETS = {"local": "reference.targets:local", "shared": "reference.targets:shared"}

redis_url_option = click.option(
    "--redis-url",
    envvar="PODRACE_REDIS_URL",
    metavar="URL",
    help="Use this Redis or Valkey (redis://, rediss://, unix://) instead of the embedded server.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of all randomness."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the run here.  [default: runs/<time>-<name>]",
)

TARGET_HELP = "local, shared, or your own as module:factory."


def bounds_options(command: Callable[..., None]) -> Callable[..., None]:
    """The bounds of a search, on every command that searches."""
    for option in (
        click.option("--budget", type=click.FloatRange(min=0.1), default=60.0, show_default=True, metavar="SECONDS"),
        click.option("--faults", type=click.IntRange(0, 4), default=1, show_default=True, help="At most so many."),
        click.option("--preemptions", type=click.IntRange(0, 8), default=2, show_default=True, help="At most."),
    ):
        command = option(command)
    return command


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
@redis_url_option
@seed_option
@json_option
@run_dir_option
def reproduce(
    pods: int,
    uploads: int,
    images: Path | None,
    redis_url: str | None,
    seed: int,
    as_json: bool,
    run_dir: Path | None,
) -> None:
    """Show the lost image and its fix on real processes.

    With a real server and the real google-genai client. Pod A takes a message with an image, another pod
    absorbs it: `local` (status in the pod's memory) loses the image, `shared` (status in Redis) keeps it.
    """
    from simulator import fleet, guarded, runs
    from simulator.connection import open_server
    from simulator.files_api import FilesApi
    from simulator.images import identify, prepare
    from simulator.reproduce import Reproduction, Workload

    targets = {name: TARGETS[name] for name in ("local", "shared")}
    fleet.warm_up([*PARTS.values(), *targets.values()])
    with ExitStack() as stack:
        enter = stack.enter_context
        work = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-", dir=guarded.folder())))
        server = enter(open_server(redis_url))
        folder = enter(runs.run_folder(run_dir, "reproduce"))
        with show.progress_bar("images", uploads) as advance:
            paths = prepare(work, uploads, source=images, rng=random.Random(seed), progress=advance)
        files = enter(FilesApi(identify=identify))
        advance = enter(show.progress_bar("uploads", uploads * len(targets)))
        workload = Workload(paths, pods, seed)
        found = {}
        for name, path in targets.items():
            one = Reproduction(path, workload, server=server, files=files, parts=PARTS, folder=work, progress=advance)
            found[name] = one.run()
    raise SystemExit(_reproduced(found, folder, server.info, seed, as_json))


def _reproduced(found: dict[str, Reproduced], folder: Path, server: ServerInfo, seed: int, as_json: bool) -> int:
    """Write the run's folder, show what was found, and return the exit code."""
    from rich.console import Console

    from simulator import moments, runs
    from simulator.history import write_history

    cells = [
        runs.Cell(
            target=name,
            scenario="foreign-pod",
            fleet="processes",
            verdict=one.judgement.verdict,
            expected="violated" if name == "local" else "holds",
            counts=one.judgement.counts,
            elapsed_s=round(one.elapsed_s, 3),
            words=", ".join(one.judgement.kinds) or "ok",
            row=1,
            sentence=one.judgement.findings[0].sentence if one.judgement.findings else "",
        )
        for name, one in found.items()
    ]
    document = runs.result_document(command_line(), seed=seed, run=folder, server=server, cells=cells)
    runs.write_json(folder / "result.json", document)
    write_history(
        folder / "history.jsonl",
        ({"target": name} | event for name, one in found.items() for event in one.events),
    )
    timelines = {name: moments.moments(one.events) for name, one in found.items()}
    judgements = {name: one.judgement for name, one in found.items()}
    with (folder / "timelines.txt").open("w", encoding="utf-8") as file:
        moments.print_timelines(Console(file=file, width=100), timelines, judgements)
    if as_json:
        show.document(document)
    else:
        moments.print_timelines(Console(), timelines, judgements)
        click.echo(f"run: {folder}")
    return runs.exit_code(cells)


@cli.command()
@click.option("--target", default="shared", show_default=True, help=TARGET_HELP)
@click.option("--scenario", required=True, metavar="NAME", help="A name that `podrace scenarios` lists.")
@bounds_options
@redis_url_option
@seed_option
@json_option
@run_dir_option
def explore(
    target: str,
    scenario: str,
    preemptions: int,
    faults: int,
    budget: float,
    redis_url: str | None,
    seed: int,
    as_json: bool,
    run_dir: Path | None,
) -> None:
    """Search all schedules of a scenario within bounds.

    It holds, is violated (with the schedule), or is inconclusive. The counterexample has the fewest faults,
    then the fewest preemptions, then the fewest steps.
    """
    from simulator.explore import Bounds
    from simulator.scenarios import find

    found = find(scenario)
    bounds = Bounds(preemptions=preemptions, faults=faults, budget_s=budget)
    raise SystemExit(_campaign("explore", [named_target(target)], [found], bounds, redis_url, seed, as_json, run_dir))


@cli.command()
@click.option("--targets", default="local,shared", show_default=True, metavar="A,B", help=TARGET_HELP)
@click.option("--scenarios", "names", metavar="NAME,NAME", help="Only these.  [default: all]")
@bounds_options
@redis_url_option
@seed_option
@json_option
@run_dir_option
def matrix(
    targets: str,
    names: str | None,
    preemptions: int,
    faults: int,
    budget: float,
    redis_url: str | None,
    seed: int,
    as_json: bool,
    run_dir: Path | None,
) -> None:
    """Explore every failure mode against every target.

    `--budget` is for each cell. The run's folder gets matrix.md, result.json and every counterexample.
    """
    from simulator.explore import Bounds
    from simulator.scenarios import SCENARIOS, find

    chosen = [find(name.strip()) for name in names.split(",")] if names else list(SCENARIOS)
    bounds = Bounds(preemptions=preemptions, faults=faults, budget_s=budget)
    named = [named_target(name.strip()) for name in targets.split(",")]
    raise SystemExit(_campaign("matrix", named, chosen, bounds, redis_url, seed, as_json, run_dir))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fleet", type=click.Choice(["inline", "processes"]), default="processes", show_default=True)
@redis_url_option
@json_option
@run_dir_option
def replay(file: Path, fleet: str, redis_url: str | None, as_json: bool, run_dir: Path | None) -> None:
    """Run a counterexample's very schedule again.

    It is shown as a timeline. On processes every step of real pods is let go by the scheduler; it exits 0
    when the verdict is the same.
    """
    from simulator import campaign, counterexample, runs, timeline
    from simulator.checks import HOLDS, INCONCLUSIVE
    from simulator.connection import open_server
    from simulator.errors import TargetError
    from simulator.history import write_history
    from simulator.inline import watchdog
    from simulator.scenarios import find

    saved = counterexample.load(file)
    target, scenario = named_target(saved.target), find(saved.scenario)
    if fleet == "processes":
        from simulator.fleet import warm_up

        warm_up([*PARTS.values(), target.path])
    with ExitStack() as stack:
        server = stack.enter_context(open_server(redis_url))
        folder = stack.enter_context(runs.run_folder(run_dir, "replay"))
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
            cell = replace(cell, verdict=same, counts=again.judgement.counts, words=words)
            cell = replace(cell, elapsed_s=round(time.monotonic() - began_s, 3))
            write_history(folder / "history.jsonl", campaign.mark(again.events, again.deciding))
            text = timeline.draw(again.events, again.deciding, width=show.width())
            shown = f"{text}\n\n{again.sentence}\n{words}: expected {saved.words}"
        document = runs.result_document(command_line(), seed=saved.seed, run=folder, server=server.info, cells=[cell])
        runs.write_json(folder / "result.json", document)
    if as_json:
        show.document(document)
    else:
        click.echo(f"{shown}\nrun: {folder}")
    raise SystemExit(runs.exit_code([cell]))


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
    from reports.build import build
    from reports.matrix import verdict
    from simulator.errors import UsageError

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
    from reports import compare
    from simulator import runs
    from simulator.errors import UsageError

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
    from simulator.scenarios import SCENARIOS

    for scenario in SCENARIOS:
        violated = ", ".join(sorted(scenario.violates)) or "none"
        click.echo(f"{scenario.row:>2}  {scenario.name:<30}  violated by {violated:<13}  {scenario.what}")


def named_target(text: str) -> NamedTarget:
    """`local`, `shared`, or `module:factory`."""
    from simulator.campaign import NamedTarget
    from simulator.errors import UsageError

    if text in TARGETS:
        return NamedTarget(text, TARGETS[text])
    for name, path in TARGETS.items():
        if text == path:
            return NamedTarget(name, path)
    if ":" not in text:
        raise UsageError(f"target {text!r}: expected {', '.join(TARGETS)}, or module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script, unlike `python -m`, does not look in the current folder
    return NamedTarget(text, text)


def _campaign(
    name: str,
    targets: list[NamedTarget],
    chosen: list[Scenario],
    bounds: Bounds,
    redis_url: str | None,
    seed: int,
    as_json: bool,
    run_dir: Path | None,
) -> int:
    """Explore every cell with progress, write the run, print it, and return the exit code."""
    from simulator import campaign, runs
    from simulator.connection import open_server
    from simulator.target import load_target

    for target in targets:
        load_target(target.path)
    cells = []
    with ExitStack() as stack:
        server = stack.enter_context(open_server(redis_url))
        folder = stack.enter_context(runs.run_folder(run_dir, name))
        single = len(chosen) * len(targets) == 1
        what, total = ("schedules", None) if single else ("cells", len(chosen) * len(targets))
        advance = stack.enter_context(show.progress_bar(what, total))
        for scenario in chosen:
            for target in targets:
                cells.append(
                    campaign.explore_cell(
                        server,
                        target,
                        scenario,
                        bounds,
                        seed=seed,
                        folder=folder,
                        progress=lambda run: advance(int(single)),
                    )
                )
                advance(int(not single))
    document = runs.result_document(command_line(), seed=seed, run=folder, server=server.info, cells=cells)
    runs.write_json(folder / "result.json", document)
    if name == "matrix":
        (folder / "matrix.md").write_text(campaign.markdown(cells, chosen), encoding="utf-8")
    if as_json:
        show.document(document)
    elif name == "matrix":
        show.matrix(cells, chosen)
    else:
        show.cell(cells[0])
    if not as_json:
        click.echo(f"run: {folder}")
    return runs.exit_code(cells)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors become one line and the exit code that says whose fault it was."""
    try:
        return cli.main(arguments, prog_name="podrace", standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        message = error.format_message()
        if "\n" in message:  # the help, where no command was named
            error.show()
        else:
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "podrace"
            click.echo(f"podrace: {message} Try {command} --help.", err=True)
        code = 2
    except PodraceError as error:
        click.echo(f"podrace: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("podrace: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: nothing is left to say
        code = 141
    sys.exit(code)


def command_line() -> list[str]:
    """What was typed after `podrace`, with no password in it."""
    from simulator.connection import redact

    return [redact(word) if "://" in word else word for word in sys.argv[1:]]
