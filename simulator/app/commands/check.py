"""`podrace check` looks at a target before it is explored; `podrace init` writes one to begin with."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

import click

from podrace.simulator.app import show
from podrace.simulator.app.names import named_scenario, named_target
from podrace.simulator.app.options import SCENARIO_HELP, Folder, Whole, given, refuse_beside, seed_option
from podrace.simulator.errors import UsageError

EXAMPLE = Path(__file__).parents[1] / "wallet.py.txt"


@click.command()
@click.argument("subject", metavar="TARGET|FILE")
@click.option("--scenario", metavar="NAME", help=f"{SCENARIO_HELP}  [default: every method of the uploads workload]")
@seed_option
@click.option(
    "--model",
    type=click.Choice(["register", "cas-register", "upload-status"]),
    help="Judge the history in FILE by this model.",
)
@click.option(
    "--states", type=Whole(min=1), default=1_000_000, help="How many states are looked at for each key of a history."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the verdict on a history as one JSON document and nothing else."
)
def check(subject: str, scenario: str | None, seed: int, model: str | None, states: int, as_json: bool) -> None:
    """Say what a target lacks, or judge a history.

    A target may lack a method, return or send something of a wrong shape, or go past its environment: by a client or
    a thread of its own, time.sleep, randomness. Each call is made once. Exits 3 where something is lacking.

    With --model it is judged whether a history is linearizable. FILE holds one JSON object a line: {"process",
    "type": "invoke|ok|fail|info", "f": "read|write|cas", "key", "value"}; `info` means that nobody knows whether the
    operation was done. A violation is shown by as few operations as can show it.
    """
    if model:
        refuse_beside("--model", "scenario", "seed")
        from podrace.simulator.app.commands.history import check_history

        raise SystemExit(check_history(Path(subject), model, states=states, as_json=as_json))
    for option in given("as_json", "states"):
        raise click.UsageError(f"{option}: expected --model beside it, which says that a history is judged.")
    _check_target(subject, scenario, seed)


def _check_target(target: str, scenario: str | None, seed: int) -> None:
    from podrace.simulator.app.checkup import EVERY_VERB, check_target
    from podrace.simulator.servers.connection import open_server

    with show.kept_apart():
        named = named_target(target)
        chosen = named_scenario(scenario) if scenario else EVERY_VERB
        with open_server(None) as server:
            found = check_target(server, named.path, chosen, seed=seed)
    for line in found.lacks:
        click.echo(f"✗ {line}")
    for line in found.returned:
        click.echo(f"  {line}")
    click.echo(f"{target}: {len(found.lacks) or 'nothing'} lacking")
    if found.lacks and not scenario:
        click.echo("It was looked at as a target of the uploads workload; --scenario module:NAME names other calls.")
    elif scenario and not found.lacks:
        click.echo(f"next: {shlex.join(['podrace', 'explore', '--target', target, '--scenario', scenario])}")
    raise SystemExit(3 if found.lacks else 0)


@click.command()
@click.argument("file", type=Folder(path_type=Path), default="wallet.py")
def init(file: Path) -> None:
    """Write an example target and its scenario.

    Both are in one file, and the scenario holds. An existing file is never overwritten.
    """
    if file.suffix != ".py" or not file.stem.isidentifier() or iskeyword(file.stem) or file.stem.startswith("__"):
        raise UsageError(f"example {file}: expected a name that can be imported, such as wallet.py")
    if not os.path.exists(file) and find_spec(file.stem) is not None:
        raise UsageError(f"example {file}: expected a name that no other module has, such as wallet.py")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(EXAMPLE.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"example {file}: expected a new file that can be written: {error.strerror}") from error
    inside = f"cd {shlex.quote(str(file.parent))} && " if file.parent != Path() else ""
    click.echo(f"written: {file}")
    click.echo(f"next: {inside}podrace explore --target {file.stem}:pod --scenario {file.stem}:TRANSFER")
