"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from podrace.simulator.search.frontier import Bounds

Command = Callable[..., None]
TARGET_HELP = "local, shared, durable, or your own as module:factory."
SCENARIO_HELP = "A name that `podrace scenarios` lists, or your own as module:NAME."


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "whole number"


class Finite(click.FloatRange):
    """A finite number in a range: neither NaN nor infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class Folder(click.Path):
    """A path that is not empty."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("expected a path, got nothing.", param, ctx)
        return super().convert(value, param, ctx)


class Names(click.ParamType[list[str]]):
    """Names with commas between them, each once."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        names = [name.strip() for name in str(value).split(",")]
        if not all(names):
            self.fail(f"{value!r}: expected names with commas between them.", param, ctx)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            self.fail(f"{twice[0]} stands there twice.", param, ctx)
        return names


@dataclass(frozen=True)
class Run:
    """The options of every command that judges: which server, and where the results go."""

    redis_url: str | None
    as_json: bool
    run_dir: Path | None


def given(*names: str) -> list[str]:
    """Those of the current command's options that somebody has given, as they are typed."""
    context = click.get_current_context()
    sources = {name: context.get_parameter_source(name) for name in names}
    typed = {one.name: one.opts[0] for one in context.command.params}
    return [typed[name] for name, source in sources.items() if source is not ParameterSource.DEFAULT]


def refuse_beside(option: str, *names: str) -> None:
    """Raise UsageError if one of these options was given beside an option that has no use for it."""
    for other in given(*names):
        raise click.UsageError(f"{other} and {option}: expected one of them.")


seed_option = click.option("--seed", type=Whole(min=0), default=7, help="Decides all that is random.")


def run_options(command: Command) -> Command:
    """The options of every command that judges, handed over as one `run`."""

    @click.option(
        "--redis-url",
        envvar="PODRACE_REDIS_URL",
        metavar="URL",
        help="Use this Redis or Valkey instead of the embedded server: redis://, rediss://, unix://, "
        "redis+sentinel://host:port,…/NAME or redis+cluster://host:port.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
    @click.option(
        "--run-dir",
        type=Folder(path_type=Path),
        metavar="DIR",
        help="Write the results into this folder, which must hold no others.  [default: runs/<time>-<name>]",
    )
    @wraps(command)
    def with_run(*, redis_url: str | None, as_json: bool, run_dir: Path | None, **others: Any) -> None:
        command(run=Run(redis_url, as_json, run_dir), **others)

    return with_run


@dataclass(frozen=True)
class Search:
    """The options of a search: its bounds, what is expected of it, and on how many or whose workers it runs."""

    bounds: Bounds
    expect: Path | None
    accept: bool
    seed: int
    workers: int
    scheduler: str | None


def search_options(command: Command) -> Command:
    """The options of a search, handed over as one `search`."""

    @click.option("--preemptions", type=Whole(0, 8), default=2, help="The most preemptions of one schedule.")
    @click.option("--faults", type=Whole(0, 4), default=1, help="The most faults of one schedule.")
    @click.option(
        "--budget",
        type=Finite(min=0.1),
        default=300.0,
        metavar="SECONDS",
        help="The time for each target in each scenario.",
    )
    @click.option(
        "--expect",
        type=Folder(path_type=Path),
        metavar="FILE",
        help="A file that says what the targets are known to violate: only what is new fails.",
    )
    @click.option("--accept", is_flag=True, help="Write what is violated now into the file that --expect names.")
    @seed_option
    @click.option(
        "--workers",
        type=Whole(1, 256),
        metavar="NUMBER",
        help="How many processes explore, each with a server of its own; 1 with --redis-url.  [default: one a core]",
    )
    @click.option("--scheduler", metavar="URL", help="Use the workers of this Dask scheduler instead (tcp://…).")
    @wraps(command)
    def with_search(
        *,
        preemptions: int,
        faults: int,
        budget: float,
        expect: Path | None,
        accept: bool,
        seed: int,
        workers: int | None,
        scheduler: str | None,
        **others: Any,
    ) -> None:
        from podrace.simulator.search.frontier import Bounds

        if accept and expect is None:
            raise click.UsageError("--accept needs --expect FILE, which it writes.")
        if scheduler is not None:
            refuse_beside("--scheduler", "workers", "redis_url")
        bounds = Bounds(preemptions=preemptions, faults=faults, budget_s=budget)
        command(search=Search(bounds, expect, accept, seed, workers or _cores(), scheduler), **others)

    return with_search


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
