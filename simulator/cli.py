"""The `podrace` command: the only place that knows every room. Imports are lazy: `--help` answers at once."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.errors import PodraceError

if TYPE_CHECKING:
    from simulator.checks import Judgement
    from simulator.history import Event
    from simulator.server import ServerInfo

PROGRESS_AFTER_S = 1.0

PARTS = {"memory": "reference.memory:MemoryLedger", "gemini": "reference.gemini:GeminiFiles"}
"""The real parts that a pod's process builds, by name: the simulator imports none of them."""

TARGETS = {"local": "reference.targets:local", "shared": "reference.targets:shared"}

redis_url_option = click.option(
    "--redis-url",
    envvar="PODRACE_REDIS_URL",
    metavar="URL",
    help="Use this Redis or Valkey (redis://, rediss://, unix://) instead of the embedded server.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the run here.  [default: runs/<time>-<name>]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="podrace")
def cli() -> None:
    """Make cross-pod races happen on purpose: lost uploads, crashes, lost replies, expired leases.

    Exit codes: 0 every verdict as expected, 1 a property is violated, 2 wrong usage, 3 inconclusive,
    4 the harness itself failed.
    """


@cli.command()
@click.option("--pods", type=click.IntRange(1, 64), default=2, show_default=True, help="Pods of each fleet.")
@click.option("--uploads", type=click.IntRange(1, 100_000), default=1, show_default=True)
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
    """Show the lost image and its fix on real processes, a real server and the real client.

    Pod A takes a message with an image, another pod absorbs it: `local` (status in the pod's memory)
    loses the image, `shared` (status in Redis) keeps it.
    """
    from simulator import fleet, runs
    from simulator.files_api import FilesApi
    from simulator.images import identify, prepare
    from simulator.reproduce import Reproduction, Workload
    from simulator.server import open_server

    began_s = time.monotonic()
    targets = {name: TARGETS[name] for name in ("local", "shared")}
    fleet.warm_up([*PARTS.values(), *targets.values()])
    with ExitStack() as stack:
        enter = stack.enter_context
        work = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-")))
        paths = prepare(work, uploads, source=images, rng=random.Random(seed))
        server = enter(open_server(redis_url))
        folder = enter(runs.run_folder(run_dir, "reproduce"))
        files = enter(FilesApi(identify=identify))
        advance = enter(progress_bar("uploads", uploads * len(targets)))
        found = {}
        for name, path in targets.items():
            one = Reproduction(
                path,
                Workload(paths, pods, seed),
                server=server,
                files=files,
                parts=PARTS,
                folder=work,
                progress=advance,
            )
            found[name] = (one.events, one.run())
    raise SystemExit(_reproduced(found, folder, server.info, seed, time.monotonic() - began_s, as_json))


def _reproduced(
    found: dict[str, tuple[list[Event], Judgement]],
    folder: Path,
    server: ServerInfo,
    seed: int,
    elapsed_s: float,
    as_json: bool,
) -> int:
    """Write the run's folder, show what was found, and return the exit code."""
    from rich.console import Console

    from simulator import moments, runs
    from simulator.history import write_history

    cells = [
        runs.Cell(
            target=name,
            scenario="foreign-pod",
            fleet="processes",
            verdict=judgement.verdict,
            expected="violated" if name == "local" else "holds",
            counts=judgement.counts,
            elapsed_s=round(elapsed_s, 3),
            words=", ".join(judgement.kinds) or "ok",
        )
        for name, (_, judgement) in found.items()
    ]
    document = runs.result_document(command_line(), seed=seed, run=folder, server=server, cells=cells)
    runs.write_json(folder / "result.json", document)
    write_history(
        folder / "history.jsonl",
        ({"target": name} | event for name, (events, _) in found.items() for event in events),
    )
    timelines = {name: moments.moments(events) for name, (events, _) in found.items()}
    judgements = {name: judgement for name, (_, judgement) in found.items()}
    with (folder / "timelines.txt").open("w", encoding="utf-8") as file:
        moments.print_timelines(Console(file=file, width=100), timelines, judgements)
    if as_json:
        print_json(document)
    else:
        moments.print_timelines(Console(), timelines, judgements)
        click.echo(f"run: {folder}")
    return runs.exit_code(cells)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; errors become one line and the exit code that says whose fault it was."""
    try:
        return cli.main(arguments, prog_name="podrace", standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
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
    from simulator.server import redact

    return [redact(word) if "://" in word else word for word in sys.argv[1:]]


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal and the work takes more than a second."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=total)
    began_s = time.monotonic()

    def advance(steps: int) -> None:
        progress.advance(task, steps)
        if time.monotonic() - began_s > PROGRESS_AFTER_S and not progress.live.is_started:
            progress.start()

    try:
        yield advance
    finally:
        progress.stop()
