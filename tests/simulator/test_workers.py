"""Cells that are explored on many workers: the same cells, files and order as on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.helping import Job
from podrace.simulator.app.runs import Cell
from podrace.simulator.app.workers import all_of, explore_here, explore_there, processes, scheduler
from podrace.simulator.errors import HarnessError, UsageError
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import open_server

BOUNDS = Bounds(preemptions=1, budget_s=60)
JOBS = [
    Job(target, scenario, BOUNDS, seed=7)
    for scenario in ("foreign-pod", "subscriber-dropped", "crash-after-send", "two-users")
    for target in ("local", "shared")
]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def told(cells: Sequence[Cell]) -> list[Cell]:
    """The cells without what differs from run to run."""
    return [
        replace(cell, elapsed_s=0, counterexample=cell.counterexample and Path(cell.counterexample).name)
        for cell in cells
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Cell], dict[str, bytes]]:
    """The cells that one worker finds, and the files that it leaves."""
    folder = tmp_path_factory.mktemp("alone")
    with open_server(None) as server:
        return told(list(explore_here(JOBS, server, folder, lambda job, schedules: None))), files_of(folder)


def test_two_processes_find_what_one_finds(alone: tuple[list[Cell], dict[str, bytes]], tmp_path: Path) -> None:
    with processes(2) as executor:
        cells = told(list(explore_there(JOBS, executor, tmp_path)))
    assert (cells, files_of(tmp_path)) == alone
    assert {cell.verdict for cell in cells} >= {"violated", "holds"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_workers_of_a_dask_scheduler_find_what_one_finds(
    alone: tuple[list[Cell], dict[str, bytes]], tmp_path: Path, dask: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with scheduler(dask) as client:
        assert (told(list(explore_there(JOBS, all_of(client), folder))), files_of(folder)) == alone


def test_a_scheduler_that_is_not_there_is_a_wrong_address() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="expected a Dask scheduler"), scheduler("tcp://127.0.0.1:1"):
        pass


def test_a_worker_that_dies_is_reported_with_the_cell_that_it_explored(tmp_path: Path) -> None:
    def kill(executor: Any) -> None:
        for process in executor._processes.values():
            process.kill()

    with processes(1) as executor:
        found = explore_there(JOBS[:2], executor, tmp_path)
        next(found)
        kill(executor)
        with pytest.raises(HarnessError, match="a worker died while shared in foreign-pod was explored"):
            next(found)
