"""Explores cells: one after the other here, or many at once on an executor's workers, each with a server of its own.

Any `concurrent.futures.Executor` will do: ours starts a process for each core, Dask's reaches other machines. The
cells, and the files that they leave, are the same and come in the same order, however many workers there are.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from podrace.simulator.app import campaign, directed, show
from podrace.simulator.app.helping import Job, help_with, own_server
from podrace.simulator.app.names import named_scenario, named_target
from podrace.simulator.app.runs import Cell, stem_of
from podrace.simulator.errors import HarnessError, UsageError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.processes import without_interrupts
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.search.ahead import Submit
from podrace.simulator.servers.connection import Server

Progress = Callable[[Job, int], None]
"""Told of a job and how many schedules of it were run."""
Team = Callable[[], Sequence[Executor]]
"""Workers that can each be spoken to: an executor of each."""


def explore_here(
    jobs: Sequence[Job], server: Server, folder: Path, progress: Progress, members: Team | None = None
) -> Iterator[Cell]:
    """Explore the cells one after the other on this server; their files go into the folder.

    Where a cell takes long, the members of a team play a part of its schedules.
    """
    for job in jobs:
        yield _explore(
            job, server, folder, partial(progress, job), partial(start_helpers, members, job) if members else None
        )


def start_helpers(members: Team, job: Job, folder: Path) -> list[Submit]:
    """Have the members of a team help with a search whose lab keeps its files in this folder."""
    executors = members()
    with without_interrupts():  # Ctrl-C during a worker's start would print a traceback
        for executor in executors:
            executor.submit(os.getpid)

    def helper(executor: Executor) -> Submit:
        return lambda batch: executor.submit(help_with, job, folder, batch)

    return [*map(helper, executors)]


def explore_there(jobs: Sequence[Job], executor: Executor, folder: Path) -> Iterator[Cell]:
    """Explore the cells on an executor's workers; yields them in the order of the jobs.

    Raises HarnessError where a worker dies.
    """
    with without_interrupts():  # Ctrl-C during a worker's start would print a traceback
        futures = [executor.submit(explore_apart, job) for job in jobs]
    for job, future in zip(jobs, futures, strict=True):
        try:
            cell, files = future.result()
        except BrokenProcessPool as error:
            raise HarnessError(f"a worker died while {job.target} in {job.scenario} was explored") from error
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            with (folder / name).open("ab" if name == show.OUTPUT else "wb") as file:
                file.write(content)
        path = cell.counterexample
        yield replace(cell, counterexample=str(folder / path)) if path else cell


def explore_apart(job: Job) -> tuple[Cell, dict[str, bytes]]:
    """What a worker does: explore a cell on a server of its own. Returns it with the files that it left, by name."""
    with tempfile.TemporaryDirectory(prefix="podrace-cell-", dir=guarded.folder()) as temporary:
        folder = Path(temporary)
        with show.kept_apart() as apart:
            apart.folder = folder
            cell = _explore(job, own_server()[0], folder, lambda schedules: None)
        if cell.counterexample:
            cell = replace(cell, counterexample=Path(cell.counterexample).name)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return cell, {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def processes(workers: int, cores: Sequence[int] | None = None) -> Iterator[Executor]:
    """An executor with so many processes, each on a core of its own; none of them outlives the block."""
    context = get_context("spawn")  # `multiprocess` has no executor of its own, and the standard one takes no other's
    allowed = _cores() if cores is None else cores
    left: SimpleQueue[int | None] = context.SimpleQueue()
    for number in range(workers):
        left.put(allowed[number % len(allowed)] if allowed else None)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(left,))
    try:
        yield executor
    finally:
        for process in list((executor._processes or {}).values()):
            process.kill()  # shutdown would wait for the cell to end; its server and pods die with it
        executor.shutdown(cancel_futures=True)


@contextmanager
def team(workers: int) -> Iterator[Team]:
    """So many processes, each on a core that is not ours; started when they are first asked for."""
    allowed = _cores()
    with ExitStack() as stack:

        @cache
        def start() -> list[Executor]:
            others = sorted(set(allowed) - set(_cores())) or allowed  # a lab has taken one core for us
            turns = [others[number % len(others) :][:1] for number in range(workers)] if others else [()] * workers
            return [stack.enter_context(processes(1, cores)) for cores in turns]

        yield start


def _cores() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def scheduler(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler, such as `tcp://127.0.0.1:8786`: see `all_of` and `each_of`.

    Raises UsageError where the extra `dask` is not installed, or nobody answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--scheduler needs Dask: expected the extra `dask`; pip install 'podrace[dask]'") from error
    try:
        client = Client(address, timeout="5s", set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(f"scheduler {address!r}: expected a Dask scheduler, got {type(error).__name__}") from error
    with client:
        yield client


def all_of(client: Any) -> Executor:
    """An executor on the workers of a Dask scheduler."""
    executor: Executor = client.get_executor(pure=False)
    return executor


def each_of(client: Any) -> list[Executor]:
    """An executor on each of the workers of a Dask scheduler."""
    addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
    return [client.get_executor(pure=False, workers=[address], allow_other_workers=False) for address in addresses]


def _explore(
    job: Job,
    server: Server,
    folder: Path,
    progress: Callable[[int], None],
    helpers: campaign.StartsHelpers | None = None,
) -> Cell:
    target = named_target(job.target)
    if one := directed.named(job.scenario):
        found = directed.run_directed(one, target, folder / stem_of(target.name, one.name), seed=job.seed)
        if found.interrupted is not None:
            ended = Interrupted(found.interrupted - 128)
            ended.so_far = found.cell
            raise ended
        found.write_shown(folder)
        return found.cell
    return campaign.explore_cell(
        server,
        target,
        named_scenario(job.scenario),
        job.bounds,
        seed=job.seed,
        folder=folder,
        progress=progress,
        helpers=helpers,
    )


def _begin(cores: SimpleQueue[int | None]) -> None:
    """Prepare a worker: it leaves Ctrl-C to its parent, dies with it, and gets a core of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guarded.die_with_parent()
    parent = parent_process()
    if parent is None or not parent.is_alive():
        os._exit(1)  # the parent ended while this process was starting
    core = cores.get()
    if core is not None:
        os.sched_setaffinity(0, {core})
