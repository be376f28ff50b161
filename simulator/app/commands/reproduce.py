"""`podrace reproduce`: the bug and its fix on real processes."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podrace.simulator.app import show
from podrace.simulator.app.names import PARTS, TARGETS
from podrace.simulator.app.options import Folder, Run, Whole, run_options, seed_option

if TYPE_CHECKING:
    from podrace.simulator.app.reproduce import Reproduced
    from podrace.simulator.app.runs import Cell


@click.command()
@click.option("--pods", type=Whole(1, 64), default=2, help="How many pods each target has.")
@click.option("--uploads", type=Whole(1, 100_000), default=1, help="How many messages are sent, each with one image.")
@click.option(
    "--images",
    type=Folder(path_type=Path),
    metavar="DIR_OR_FILE",
    help="Your own PNG or JPEG files.  [default: generated screenshots]",
)
@seed_option
@run_options
def reproduce(pods: int, uploads: int, images: Path | None, seed: int, run: Run) -> None:
    """Show the lost image and its fix on real processes.

    Pod A takes a message with an image, and another pod absorbs it: `local`, which has the status in the pod's memory,
    loses the image; `shared`, which has it in Redis, keeps it. The server and the google-genai client are real.
    """
    from podrace.simulator.app import moments, runs
    from podrace.simulator.app.images import prepare
    from podrace.simulator.app.reproduce import Reproduction
    from podrace.simulator.fleets import guarded
    from podrace.simulator.fleets import processes as fleet
    from podrace.simulator.history.events import Wording, readable, write_history
    from podrace.simulator.servers.connection import open_server
    from podrace.simulator.servers.files_api import FilesApi

    targets = {name: TARGETS[name] for name in ("local", "shared")}
    fleet.warm_up([*PARTS.values(), *targets.values()])
    with ExitStack() as stack:
        enter = stack.enter_context
        work = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-", dir=guarded.folder())))
        server = enter(open_server(run.redis_url))
        folder = enter(runs.run_folder(run.run_dir, "reproduce"))
        with show.Bar("images", uploads) as bar:
            paths, identify = prepare(work, uploads, source=images, rng=random.Random(seed), progress=bar.advance)
        files = enter(FilesApi(identify=identify))
        found = {}
        with show.Bar("uploads", uploads * len(targets)) as bar:
            for name, path in targets.items():
                bar.advance(0, name)
                one = Reproduction(path, paths, server, files, work, pods, seed, bar.advance)
                found[name] = one.run()
        histories = {name: readable(one.events, Wording(server.prefix, f"{work}/")) for name, one in found.items()}
        events = ({"target": name} | event for name, history in histories.items() for event in history)
        write_history(folder / "history.jsonl", events)
        timelines = {name: moments.moments(history) for name, history in histories.items()}
        lines = [moments.summary_line(name, one.judgement) for name, one in found.items()]
        text = "\n".join([moments.draw(timelines, width=100), "", *lines, ""])
        (folder / "timelines.txt").write_text(text, encoding="utf-8")

        def shown() -> None:
            click.echo(moments.draw(timelines, width=show.width()) + "\n")
            for line in lines:
                click.secho(line, fg="red" if "LOST" in line else "green")

        show.conclude(run, folder, server.info, seed, _cells(found, pods), shown)


def _cells(found: Mapping[str, Reproduced], pods: int) -> list[Cell]:
    """What became of each target."""
    from podrace.simulator.app.runs import unjudged
    from podrace.simulator.scenarios.catalogue import find

    return [
        replace(
            unjudged(find("foreign-pod"), name, "processes"),
            verdict=one.judgement.verdict,
            expected="violated" if name == "local" and pods > 1 else "holds",
            counts=one.judgement.counts,
            elapsed_s=round(one.elapsed_s, 3),
            words=", ".join(one.judgement.kinds) or "ok",
            sentence=one.judgement.findings[0].sentence if one.judgement.findings else "",
        )
        for name, one in found.items()
    ]
