"""Services written as somebody writes them who has never heard of this project, explored as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from podrace.simulator.app.campaign import NamedScenario, NamedTarget, explore_cell, lab_for, replay
from podrace.simulator.app.counterexample import load
from podrace.simulator.app.names import PARTS, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.scenarios.catalogue import find
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.embedded import EmbeddedServer


@pytest.fixture
def run_server(server: EmbeddedServer) -> Server:
    return Server(url=server.url, info=server.info(), prefix="mirix:", embedded=server)


def explored(server: Server, target: str, row: str, folder: Path) -> Cell:
    named = NamedScenario(row, find(row))
    return explore_cell(server, NamedTarget(target, target), named, Bounds(), seed=7, folder=folder, parts=PARTS)


def test_a_plain_upload_manager_loses_its_image_and_does_so_again_on_processes(
    run_server: Server, tmp_path: Path
) -> None:
    check_loses(run_server, "cases.plain_uploads:threaded", tmp_path)


def check_loses(run_server: Server, target: str, tmp_path: Path) -> None:
    """The statuses stand in a dict of one pod: another does not know of the upload."""
    cell = explored(run_server, target, "foreign-pod", tmp_path)
    assert (cell.verdict, cell.words) == ("violated", "lost"), cell.note
    saved = load(Path(str(cell.counterexample)))
    with lab_for(
        "processes", run_server, named_target(target), find("foreign-pod"), seed=saved.seed, parts=PARTS
    ) as lab:
        again = replay(lab, saved)
    assert (again.judgement.words, again.sentence) == ("lost", cell.sentence)


def test_plain_code_is_not_let_onto_a_server_of_somebody_else(run_server: Server) -> None:
    foreign = replace(run_server, embedded=None)
    with pytest.raises(UsageError, match="leave --redis-url and PODRACE_REDIS_URL out"):
        lab_for(
            "inline", foreign, named_target("cases.plain_uploads:threaded"), find("foreign-pod"), seed=7, parts=PARTS
        )


def test_a_plain_asyncio_service_loses_its_image_and_does_so_again_on_processes(
    run_server: Server, tmp_path: Path
) -> None:
    check_loses(run_server, "cases.plain_uploads:asynchronous", tmp_path)
