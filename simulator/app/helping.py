"""What a helper does: it plays branches of another process's search, on a lab and a server of its own.

Its records say what that process's would: the folder of the lab's files is named as it is there, and a lock stands as
whether it is free.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from podrace.simulator.app import show
from podrace.simulator.app.campaign import led
from podrace.simulator.app.names import named_scenario, named_target
from podrace.simulator.errors import TargetError
from podrace.simulator.fleets import guarded
from podrace.simulator.search.ahead import Answer, Batch
from podrace.simulator.search.frontier import Bounds, Branch, Course, Visited
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.search.record import Record, Recorder
from podrace.simulator.servers.connection import Server, open_server
from podrace.simulator.world.locks import LockState, VirtualLock
from podrace.simulator.world.steps import Step


@dataclass(frozen=True)
class Job:
    """One cell to explore: names, so that it can be sent to any machine that has the same code."""

    target: str
    scenario: str
    bounds: Bounds
    seed: int


def help_with(job: Job, folder: Path, batch: Batch | None) -> Answer:
    """Play a batch of branches; with None close the lab. `folder`: where the files of the lab lie that searches."""
    desk = _desk()
    with desk.lock:  # a worker of Dask may have several threads
        if batch is None:
            desk.close()
            return Answer(())
        return desk.helper(job, folder).play(batch)


@cache
def own_server() -> tuple[Server, ExitStack]:
    """The server of this worker, and what ends it with the process."""
    stack = ExitStack()
    return stack.enter_context(open_server(None)), stack


class _Desk:
    """The one search with which this process helps now."""

    def __init__(self) -> None:
        self._for: tuple[Job, Path] | None = None
        self._stack = ExitStack()
        self.lock = threading.Lock()

    def close(self) -> None:
        self._for = None
        self._stack.close()

    def helper(self, job: Job, folder: Path) -> _Helper:
        if self._for != (job, folder):
            self.close()
            self._helper = self._stack.enter_context(_helping(job, folder))
            self._for = job, folder
        return self._helper


_desk = cache(_Desk)


@contextmanager
def _helping(job: Job, folder: Path) -> Iterator[_Helper]:
    """Opens a lab; what the target prints is thrown away, as the process that searches keeps that."""
    with (
        tempfile.TemporaryDirectory(prefix="podrace-helper-", dir=guarded.folder()) as temporary,
        show.kept_apart() as apart,
    ):
        apart.folder = Path(temporary)
        target, scenario = named_target(job.target), named_scenario(job.scenario)
        with InlineLab(own_server()[0], target.path, scenario, seed=job.seed) as lab:
            yield _Helper(lab, job.bounds, str(folder))


class _Helper:
    """Helps with one search. `folder` is that of the other lab's files."""

    def __init__(self, lab: InlineLab, bounds: Bounds, folder: str) -> None:
        self._lab = lab
        self._bounds = bounds
        self._theirs, self._ours = folder, str(lab.folder)
        self._recorder = Recorder(lab.scenario, lab.play, lab.finish, bounds)
        self._search = 0
        self._visited = Visited()

    def play(self, batch: Batch) -> Answer:
        if batch.search != self._search:
            self._search, self._visited = batch.search, Visited()
        for key, cost in batch.reached:
            self._visited.note(key, cost)
        self._lab.table.know(batch.scripts, batch.unclear)
        ours: dict[int, Any] = {}  # branches of one course have most of it in common
        for _, branch in batch.branches:
            for step in branch.course.taken:
                if id(step) not in ours:
                    ours[id(step)] = _sendable(step, self._theirs, self._ours)
        records = []
        for cost, branch in batch.branches:
            course = Course(branch.course.decisions, tuple(ours[id(step)] for step in branch.course.taken))
            records.append(self._record(branch._replace(course=course), cost, batch.retries))
        return Answer(records, is_led=self._is_led())

    def _record(self, branch: Branch, cost: tuple[int, int], retries: int) -> Record | None:
        try:
            with led(self._lab, self._lab.moves, self._bounds) as places:
                record = self._recorder.record(branch, cost, retries, self._visited.is_known)
        except Exception:  # whatever it is, the search will meet it when it plays the branch itself
            return None
        if record is None:
            return None
        for place in record.places if record.judged else record.places[:-1]:
            self._visited.note(place.key, cost)
        tail = Course(
            record.course.decisions[branch.position :],
            tuple(_sendable(step, self._ours, self._theirs) for step in record.course.taken[branch.position :]),
        )
        return replace(record, course=tail, events=[], prints=bool(places))

    def _is_led(self) -> bool:
        try:
            self._lab.notes()
        except TargetError:
            return False
        return True


def _sendable(value: Any, before: str, after: str) -> Any:
    """The value as another process has it, with another folder's name in it."""
    if isinstance(value, str):
        return value.replace(before, after) if before in value else value
    if isinstance(value, bytes):
        return value.replace(before.encode(), after.encode()) if before.encode() in value else value
    if isinstance(value, VirtualLock):
        return LockState(value.free, value.holder)
    if type(value) is Step:
        return value._replace(args=_sendable(value.args, before, after))
    if type(value) in (tuple, list):
        return type(value)(_sendable(item, before, after) for item in value)
    if type(value) is dict:
        return {key: _sendable(item, before, after) for key, item in value.items()}
    return value
