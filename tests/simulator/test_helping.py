"""One cell whose schedules are split over processes: they find what one process alone finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.campaign import led
from podrace.simulator.app.helping import Job
from podrace.simulator.app.names import named_scenario, named_target
from podrace.simulator.app.workers import each_of, scheduler, start_helpers, team
from podrace.simulator.errors import TargetError
from podrace.simulator.search.ahead import NOTHING, Ahead, Answer, Batch, Submit
from podrace.simulator.search.explorer import Exploration, Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server

HERE = Path(__file__).parent
ONE = Bounds(preemptions=1, budget_s=600)
TWO = Bounds(preemptions=2, budget_s=600)


@pytest.fixture(scope="module", autouse=True)
def _planted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.syspath_prepend(HERE.parent)
        yield


@pytest.fixture(scope="module")
def members(_planted: None) -> Iterator[Sequence[Executor]]:
    with team(2) as start:
        yield start()


Explored = tuple[Exploration | str, list[str], int]
"""The exploration or the error, the notes on it, and the number of records that came from helpers."""


def explored(server: Server, job: Job, members: Sequence[Executor] | None = None) -> Explored:
    target, scenario = named_target(job.target), named_scenario(job.scenario)
    found: Exploration | str
    with InlineLab(server, target.path, scenario, seed=job.seed) as lab:
        explorer = Explorer(lab.scenario, lab.play, lab.finish, job.bounds)
        ahead = None
        try:
            with led(lab, lambda: (lab.moves(), explorer.taken), job.bounds) as places:
                if members is not None:
                    start = partial(ready, partial(start_helpers, lambda: members, job), lab.folder)
                    ahead = Ahead(start, lab.table, lambda: not places, begins_after_s=0)
                found = replace(explorer.explore(ahead), elapsed_s=0)
            notes = [*lab.notes(), *places]
        except TargetError as error:
            found, notes = str(error), []
    return found, notes, ahead.helped if ahead else 0


def ready(start: Callable[[Path], Sequence[Submit]], folder: Path) -> Sequence[Submit]:
    """Wait until the helpers have started, as a short search would otherwise end before."""
    submits = start(folder)
    for future in [submit(NOTHING) for submit in submits]:
        future.result()
    return submits


CELLS = {
    "violated, all of it": (Job("shared", "paused-pod", ONE, seed=7), 20),
    "violated, stopped at the worst": (Job("shared", "paused-pod", TWO, seed=7), 20),
    "holds": (Job("durable", "two-users", ONE, seed=7), 20),
    "holds, with images": (Job("durable", "cleanup-while-resolving", TWO, seed=7), 20),
    "nothing to strike": (Job("durable", "foreign-unlock", ONE, seed=7), 5),
    "two settings of the client": (Job("shared", "connection-dropped", TWO, seed=7), 20),
    "no reduction": (Job("shared", "two-users", replace(ONE, reduce=False), seed=7), 20),
    "plain code on threads": (Job("cases.plain_uploads:threaded", "two-users", ONE, 7), 20),
    "plain code on asyncio": (Job("cases.plain_targets:leader_mended", "cases.leader:SCENARIO", TWO, 7), 5),
    "what cannot be led, in some schedule": (Job("planted.helped:SleepsInARace", "planted.helped:RACE", ONE, 7), 0),
    "prints in some schedules": (Job("planted.helped:PrintsInARace", "planted.helped:RACE", ONE, 7), 20),
    "changes its module in some schedules": (Job("planted.helped:Remembers", "planted.helped:RACE", ONE, 7), 20),
    "learns scripts in some schedules": (Job("planted.helped:Scripts", "planted.helped:RACE", ONE, 7), 20),
    "another way in each process": (Job("planted.helped:DependsOnItsProcess", "planted.helped:RACE", ONE, 7), 0),
    "other values in each process": (
        Job("planted.helped:OtherValuesInItsProcess", "planted.helped:RACE", ONE, 7),
        0,
    ),
}


@pytest.mark.parametrize("cell", CELLS)
def test_three_processes_find_what_one_finds(run_server: Server, members: Sequence[Executor], cell: str) -> None:
    job, least = CELLS[cell]
    alone, notes, _ = explored(run_server, job)
    split, notes_of_split, helped = explored(run_server, job, members)
    assert (split, notes_of_split) == (alone, notes)
    assert helped >= least


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_workers_of_a_dask_scheduler_help_too(run_server: Server, dask: str) -> None:
    job, least = CELLS["violated, stopped at the worst"]
    with scheduler(dask) as client:
        members = each_of(client)
        assert len(members) == 2
        split, notes, helped = explored(run_server, job, members)
    assert (split, notes) == explored(run_server, job)[:2]
    assert helped >= least


Answers = Callable[[Batch | None], "Future[Answer]"]


def nothing_at_all(batch: Batch | None) -> Future[Answer]:
    """A helper that starts and then never answers."""
    return Future() if batch is not None and batch.branches else answered(())


def dies(batch: Batch | None) -> Future[Answer]:
    """A helper that starts and dies of its first work."""
    future = nothing_at_all(batch)
    if not future.done():
        future.set_exception(BrokenProcessPool())
    return future


def is_dead(batch: Batch | None) -> Future[Answer]:
    """A helper that turns out to be dead when it is given work."""
    if batch is None or batch.branches:
        raise BrokenProcessPool
    return answered(())


def cannot(batch: Batch | None) -> Future[Answer]:
    """A helper that cannot make any record."""
    return answered([None] * len(batch.branches) if batch else ())


def notices(batch: Batch | None) -> Future[Answer]:
    """A helper that reports that the target does something that the harness cannot control."""
    return answered([None] * len(batch.branches) if batch else (), is_led=not (batch and batch.branches))


def answered(records: Sequence[None], *, is_led: bool = True) -> Future[Answer]:
    future: Future[Answer] = Future()
    future.set_result(Answer(records, is_led))
    return future


@pytest.mark.parametrize("helper", [nothing_at_all, dies, is_dead, cannot, notices])
def test_a_useless_helper_does_not_change_the_result(
    run_server: Server, monkeypatch: pytest.MonkeyPatch, helper: Answers
) -> None:
    monkeypatch.setattr("podrace.simulator.search.ahead.PATIENCE_S", 0.001)
    scenario = named_scenario("late-completion")
    with InlineLab(run_server, named_target("shared").path, scenario, seed=7) as lab:

        def found(ahead: Ahead | None) -> Exploration:
            return replace(Explorer(lab.scenario, lab.play, lab.finish, ONE).explore(ahead), elapsed_s=0)

        ahead = Ahead(lambda: [helper, helper], lab.table, lambda: True, begins_after_s=0)
        assert found(ahead) == found(None)
        assert (ahead.has_begun, ahead.helped) == (True, 0)


def test_the_command_finds_the_same_with_any_number_of_workers(podrace: Any) -> None:
    """The search is long enough for the helper to take part."""
    told = []
    for workers in ("1", "2"):
        options = ("--target", "shared", "--scenario", "stale-local-copy", "--workers", workers, "--run-dir", workers)
        ended = podrace("explore", *options, "--json")
        assert (ended.code, ended.err, ended.left) == (0, "", [])
        (cell,) = json.loads(ended.out)["cells"]
        files = {path.name: path.read_bytes() for path in (podrace.folder / workers).iterdir()}
        told.append((cell | {"elapsed_s": 0, "counterexample": ""}, files | {"result.json": b""}))
    assert told[0] == told[1]
