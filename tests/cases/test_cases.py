"""Small services of many designs: the broken ones are caught with the right word, of the others nothing is said."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

import pytest

from podrace.simulator.app.campaign import NamedScenario, NamedTarget, explore_cell
from podrace.simulator.app.runs import Cell
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server


class Row(NamedTuple):
    """`word`: the worst of what is found, where something is."""

    module: str
    target: str
    word: str = ""
    scenario: str = "SCENARIO"
    preemptions: int = 2
    faults: int = 1

    @property
    def name(self) -> str:
        return f"{self.module}:{self.target}:{self.scenario}"


PROTOCOLS = (
    Row("lock", "Broken", "duplicated"),
    Row("lock", "Mended"),
    Row("leader", "Broken", "duplicated"),
    Row("leader", "Mended"),
    Row("visibility", "Broken", "duplicated"),
    Row("visibility", "Mended"),
    Row("ticket", "Broken", "stuck"),
    Row("ticket", "Mended"),
    Row("limiter", "Broken", "stuck", "KILLED"),
    Row("limiter", "Mended", "", "KILLED"),
    Row("limiter", "Broken", "stuck", "LOST"),
    Row("limiter", "Mended", "", "LOST"),
    Row("idempotency", "Broken", "duplicated"),
    Row("idempotency", "Mended"),
    Row("registry", "Broken", "misreported"),
    Row("registry", "Mended"),
    Row("chat", "Broken", "stuck"),
    Row("chat", "Mended"),
    Row("waiter", "Broken", "stuck"),
    Row("waiter", "Mended"),
    Row("session", "Broken", "lost", "TWO_PUT"),
    Row("session", "Mended", "", "TWO_PUT"),
    Row("session", "Broken", "misreported", "LOGOUT"),
    Row("session", "Mended", "", "LOGOUT"),
    Row("listener", "Broken", "lost"),
    Row("listener", "Mended"),
    Row("dependants", "Broken", "stuck"),
    Row("dependants", "Mended"),
)


@pytest.fixture(autouse=True)
def _cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.fixture
def run_server(server: object) -> Server:
    """The session's server, as explorations get it."""
    from podrace.simulator.servers.embedded import EmbeddedServer

    assert isinstance(server, EmbeddedServer)
    return Server(url=server.url, info=server.info(), prefix="cases:", embedded=server)


def explore(server: Server, row: Row, folder: Path, budget_s: float = 20) -> Cell:
    module = f"cases.{row.module}"
    scenario = getattr(importlib.import_module(module), row.scenario)
    target, named = f"{module}:{row.target}", NamedScenario(f"{module}:{row.scenario}", scenario)
    bounds = Bounds(preemptions=row.preemptions, faults=row.faults, budget_s=budget_s)
    return explore_cell(
        server, NamedTarget(target, target), named, bounds, seed=7, folder=folder, parts={}, on_processes=False
    )


def said(cell: Cell) -> str:
    return f"{cell.words}; {cell.sentence}; {cell.note}; {cell.schedules}; {cell.elapsed_s:.1f} s"


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.name)
def test_a_case_gets_its_verdict(run_server: Server, tmp_path: Path, row: Row) -> None:
    cell = explore(run_server, row, tmp_path)
    if row.word:
        assert (cell.verdict, cell.words.split(", ")[0]) == ("violated", row.word), said(cell)
    else:
        assert (cell.verdict, cell.schedules.get("complete")) == ("holds", True), said(cell)
