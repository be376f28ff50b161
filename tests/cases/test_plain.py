"""Services written as if their authors had never heard of podrace, explored unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from podrace.simulator.app.campaign import explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.names import NamedTarget, named_scenario, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.explorer import Explorer
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.search.lab import InlineLab
from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.embedded import EmbeddedServer


@pytest.fixture
def run_server(server: EmbeddedServer) -> Server:
    return Server(url=server.url, info=server.info(), prefix="mirix:", embedded=server)


def explored(server: Server, target: str, row: str, folder: Path) -> Cell:
    named = find(row)
    return explore_cell(server, NamedTarget(target, target), named, Bounds(), seed=7, folder=folder)


def test_a_plain_upload_manager_loses_its_image_and_does_so_again_on_processes(
    run_server: Server, tmp_path: Path
) -> None:
    check_loses(run_server, "cases.plain_uploads:threaded", tmp_path)


def check_loses(run_server: Server, target: str, tmp_path: Path) -> None:
    """The statuses are in a dict of one pod, so another pod does not know of the upload."""
    cell = explored(run_server, target, "foreign-pod", tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "lost"), cell.note
    saved = load(Path(str(cell.counterexample)))
    with lab_for("processes", run_server, named_target(target), find("foreign-pod"), seed=saved.seed) as lab:
        again = replay(lab, saved)
    assert (again.judgement.words, again.sentence) == ("lost", cell.sentence)


def test_plain_code_is_refused_on_a_foreign_server(run_server: Server) -> None:
    foreign = replace(run_server, embedded=None)
    with pytest.raises(UsageError, match="leave --redis-url and PODRACE_REDIS_URL out"):
        lab_for("inline", foreign, named_target("cases.plain_uploads:threaded"), find("foreign-pod"), seed=7)


def test_a_plain_asyncio_service_loses_its_image_and_does_so_again_on_processes(
    run_server: Server, tmp_path: Path
) -> None:
    check_loses(run_server, "cases.plain_uploads:asynchronous", tmp_path)


CASES = (
    ("limiter_broken", "limiter:KILLED", "stuck"),
    ("limiter_mended", "limiter:KILLED", ""),
    ("registry_broken", "registry:SCENARIO", "misreported"),
    ("registry_mended", "registry:SCENARIO", ""),
    ("visibility_broken", "visibility:SCENARIO", "duplicated"),
    ("visibility_mended", "visibility:SCENARIO", ""),
    ("listener_broken", "listener:SCENARIO", "lost"),
    ("listener_mended", "listener:SCENARIO", ""),
    ("lock_broken", "lock:SCENARIO", "duplicated"),
    ("lock_mended", "lock:SCENARIO", ""),
    ("lock_library", "lock:SCENARIO", ""),
    ("payments_broken", "idempotency:SCENARIO", "duplicated"),
    ("payments_mended", "idempotency:SCENARIO", ""),
    ("session_broken", "session:TWO_PUT", "lost"),
    ("session_mended", "session:TWO_PUT", ""),
    ("session_broken", "session:LOGOUT", "misreported"),
    ("session_mended", "session:LOGOUT", ""),
    ("waiter_broken", "waiter:SCENARIO", "stuck"),
    ("waiter_mended", "waiter:SCENARIO", ""),
    ("leader_broken", "leader:SCENARIO", "duplicated"),
    ("leader_mended", "leader:SCENARIO", ""),
    ("dependants_broken", "dependants:SCENARIO", "stuck"),
    ("dependants_mended", "dependants:SCENARIO", ""),
    ("careless", "plain_targets:CANCELLED", "leaked"),
    ("gives_back", "plain_targets:CANCELLED", "leaked"),
    ("lease", "plain_targets:CANCELLED", ""),
    ("between", "plain_targets:ALONE", "leaked"),
    ("latest", "plain_targets:LATE", "misreported"),
)
"""Target, scenario, and the worst finding; empty if it holds."""
SLOW_IN_FULL = frozenset({"lock_broken", "leader_broken"})
"""Targets with too many orders to run them all."""


@pytest.mark.wide
@pytest.mark.parametrize(("target", "scenario", "word"), CASES)
def test_a_plain_case_gets_the_verdict_of_the_table(
    run_server: Server, tmp_path: Path, target: str, scenario: str, word: str
) -> None:
    path, name = f"cases.plain_targets:{target}", f"cases.{scenario}"
    cell = explore_cell(run_server, NamedTarget(path, path), named_scenario(name), Bounds(), seed=7, folder=tmp_path)
    if word:
        assert (cell.verdict, cell.words.split(", ")[0]) == ("violated", word), cell.note
        saved = load(Path(str(cell.counterexample)))
        found = named_scenario(name)
        with lab_for("processes", run_server, named_target(path), found, seed=saved.seed) as lab:
            assert replay(lab, saved).sentence == cell.sentence
    else:
        assert (cell.verdict, cell.note, cell.schedules.get("complete")) == ("holds", "", True)


LARGE = "plain_targets:CANCELLED"
"""With two preemptions its orders take seconds, with and without the reduction: the nightly job runs these."""


@pytest.mark.wide
@pytest.mark.parametrize(
    ("target", "scenario", "preemptions"),
    [
        *(
            (target, scenario, 1 if scenario == LARGE else 2)
            for target, scenario, _ in CASES
            if target not in SLOW_IN_FULL
        ),
        *(
            pytest.param(target, scenario, 2, marks=pytest.mark.nightly)
            for target, scenario, _ in CASES
            if scenario == LARGE
        ),
    ],
)
def test_the_reduction_leaves_out_no_outcome_of_plain_code(
    run_server: Server, target: str, scenario: str, preemptions: int
) -> None:
    found = named_scenario(f"cases.{scenario}")
    outcomes = []
    for reduce in (True, False):
        with InlineLab(run_server, f"cases.plain_targets:{target}", found, seed=7) as lab:
            bounds = Bounds(preemptions=preemptions, reduce=reduce)
            explored = Explorer(lab.scenario, lab.play, lab.finish, bounds, worst="").explore()
        assert explored.complete
        outcomes.append((explored.outcomes, explored.words))
    assert outcomes[0] == outcomes[1]
