"""Small services of many designs: broken ones are caught with the right word, for the others nothing is reported."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from podrace.simulator.app.campaign import explore_cell
from podrace.simulator.app.names import NamedTarget
from podrace.simulator.app.runs import Cell
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import Server

pytestmark = pytest.mark.wide


class Row(NamedTuple):
    """`word`: the worst finding, if there is one."""

    module: str
    target: str
    word: str = ""
    scenario: str = "SCENARIO"
    preemptions: int = 2
    faults: int = 1

    @property
    def name(self) -> str:
        return f"{self.module}:{self.target}:{self.scenario}"


def both(module: str, design: str, word: str, scenario: str = "SCENARIO") -> tuple[Row, Row]:
    """A broken target and its mended one."""
    return Row(module, f"{design}Broken", word, scenario), Row(module, f"{design}Mended", "", scenario)


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

OWN = (
    *both("protocols", "Counter", "lost", "COUNTER"),
    *both("protocols", "Script", "lost", "COUNTER"),
    *both("protocols", "LibraryLock", "lost", "COUNTER"),
    *both("protocols", "Hash", "lost", "HASH"),
    *both("protocols", "Name", "duplicated", "NAME"),
    *both("protocols", "Leader", "duplicated", "NAME"),
    *both("protocols", "Init", "duplicated", "INIT"),
    *both("protocols", "Cache", "misreported", "CACHE"),
    *both("protocols", "Outbox", "lost", "OUTBOX"),
    *both("protocols", "Transfer", "lost", "TRANSFER"),
    *both("protocols", "Saga", "lost", "SAGA"),
    *both("protocols", "Semaphore", "duplicated", "SEMAPHORE"),
    *both("protocols", "Bucket", "duplicated", "BUCKET"),
    *both("protocols", "Delayed", "duplicated", "DELAYED"),
    *both("protocols", "Worker", "lost", "WORKER"),
    *both("protocols", "Set", "lost", "SET"),
    *both("protocols", "Stream", "lost", "STREAM"),
    *both("protocols", "Stolen", "duplicated", "STOLEN"),
    *both("protocols", "Log", "duplicated", "LOG"),
    *both("protocols", "Fenced", "lost", "FENCE"),
)
SILENT = (
    Row("protocols", "IdleMended", "", "STREAM"),
    Row("protocols", "PendingMended", "", "STREAM"),
    Row("silent", "OneAtATurn", "", "ONE_AT_A_TURN"),
    Row("silent", "TwoAWindow", "", "TWO_A_WINDOW"),
    Row("silent", "Remembers", "", "REMEMBERS"),
    Row("silent", "Beats", "", "BEATS"),
    Row("silent", "KeepsLonger", "", "KEEPS_LONGER"),
    Row("silent", "Pops", "", "POPS"),
    Row("silent", "PopsInTime", "", "POPS"),
    Row("silent", "GivesUp", "", "GIVES_UP"),
    Row("silent", "Numbers", "", "NUMBERS"),
    Row("silent", "TinyLock", "", "TINY_LOCK"),
    Row("silent", "AsksTheTime", "", "ASKS_THE_TIME"),
    Row("silent", "Fresh", "", "FUNCTIONS"),
    Row("silent", "Fresh", "", "OPEN"),
    Row("silent", "Fresh", "", "DATABASE"),
    Row("silent", "Fresh", "", "SUBSCRIBED"),
    Row("silent", "Fresh", "", "CLOSED"),
    Row("silent", "Watches", "", "EXTENDS"),
    Row("silent", "Watches", "", "SETS_ANEW"),
    Row("silent", "Picks", "", "PICKS"),
    Row("silent", "CountsTheRefused", "", "TWO_A_WINDOW", preemptions=0),
)
RULES = (
    Row("rules", "WrongStatus", "misreported", "STATUS"),
    Row("rules", "WrongLateStatus", "misreported", "STATUS"),
    Row("rules", "RightStatus", "", "STATUS"),
    *[Row("rules", f"Wrong{where}", "lost", "SHARED") for where in (
        "OnClass", "ClassAttribute", "InModule", "InDefault", "InClosure", "InCache", "OnFunction")],
    Row("rules", "WrongOrder", "stuck", "LOCKS"),
    Row("rules", "SameOrder", "", "LOCKS"),
    Row("rules", "Wraps", "", "SAVES"),
    Row("rules", "WrapsInContext", "", "SAVES"),
    Row("rules", "WrapsFromNone", "", "SAVES"),
    Row("rules", "RaisesLater", "", "SAVES"),
    Row("rules", "OtherTimeoutError", "", "TIMES_OUT"),
    Row("rules", "WrongPipeline", "misreported", "PIPELINE"),
    Row("rules", "OneTransaction", "", "PIPELINE"),
    Row("rules", "WrongTrim", "leaked", "TRIM"),
    Row("rules", "WrongTrimInPipeline", "leaked", "TRIM"),
    Row("rules", "WrongTrimInTransaction", "leaked", "TRIM"),
    *[Row("rules", f"Wrong{kind}", "misreported", "CORRUPT") for kind in (
        "List", "Hash", "Script", "GetEx")],
    Row("rules", "Pops", "stuck", "ALONE"),
    Row("rules", "PopsInTime", "", "ALONE"),
    Row("rules", "Pops", "stuck", "TWO_TAKE"),
    Row("rules", "PopsInTime", "", "TWO_TAKE"),
    Row("rules", "PopsInTime", "lost", "EITHER_TAKES"),
    Row("rules", "WrongBatches", "lost", "BATCHES"),
    Row("rules", "RightBatches", "", "BATCHES"),
    Row("rules", "RawWatch", "", "RAW"),
    Row("rules", "WrongRaw", "lost", "RAW"),
    Row("rules", "WrongUndeclared", "lost", "SCRIPTS"),
    Row("rules", "ByName", "", "SCRIPTS"),
    Row("rules", "KilledEarly", "lost", "KILLED"),
    Row("rules", "KilledLater", "lost", "KILLED"),
    Row("rules", "KilledTwice", "lost", "KILLED_TWICE", faults=2),
    Row("rules", "WrongZset", "misreported", "CORRUPT"),
    Row("rules", "WrongSet", "misreported", "CORRUPT"),
    Row("rules", "WrongStream", "misreported", "CORRUPT"),
    Row("rules", "Pops", "stuck", "NOBODY"),
    Row("rules", "WrongKeys", "leaked", "LEAK"),
)  # fmt: skip
UNFIT = {
    "exits": "SystemExit",
    "ExitsInCall": "SystemExit",
    "ExitsInChild": "SystemExit",
    "IsCancelled": "CancelledError",
    "OwnThread": "thread of its own",
    "OwnClient": "",
    "Random": "not deterministic",
    "ReadsServerTime": "TIME",
    "NeverEnds": "did not finish",
    "Coroutine": "coroutine",
    "MissesTheMethod": "no method do",
    "AlwaysFails": "no call succeeds",
}
"""Words of the note that says why no verdict can be given."""


@pytest.fixture
def run_server(server: object) -> Server:
    """The session's server in the form that explorations take."""
    from podrace.simulator.servers.embedded import EmbeddedServer

    assert isinstance(server, EmbeddedServer)
    return Server(url=server.url, info=server.info(), prefix="cases:", embedded=server)


def explore(server: Server, row: Row, folder: Path, budget_s: float = 20) -> Cell:
    module = f"cases.{row.module}"
    scenario = getattr(importlib.import_module(module), row.scenario)
    target, named = f"{module}:{row.target}", replace(scenario, name=f"{module}:{row.scenario}")
    bounds = Bounds(preemptions=row.preemptions, faults=row.faults, budget_s=budget_s)
    return explore_cell(server, NamedTarget(target, target), named, bounds, seed=7, folder=folder, on_processes=False)


def said(cell: Cell) -> str:
    return f"{cell.words}; {cell.sentence}; {cell.note}; {cell.schedules}; {cell.elapsed_s:.1f} s"


def check(server: Server, row: Row, folder: Path) -> None:
    cell = explore(server, row, folder)
    if row.word == "inconclusive":
        assert (cell.verdict, cell.counterexample) == ("inconclusive", None), said(cell)
    elif row.word:
        assert (cell.verdict, cell.words.split(", ")[0]) == ("violated", row.word), said(cell)
    else:
        assert (cell.verdict, cell.schedules.get("complete")) == ("holds", True), said(cell)


@pytest.mark.parametrize("row", [*PROTOCOLS, *OWN, *SILENT, *RULES], ids=lambda row: row.name)
def test_a_case_gets_the_verdict_of_the_table(run_server: Server, tmp_path: Path, row: Row) -> None:
    check(run_server, row, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("target", UNFIT)
def test_a_target_that_cannot_be_judged_never_passes(run_server: Server, tmp_path: Path, target: str) -> None:
    cell = explore(run_server, Row("unfit", target), tmp_path)
    assert (cell.verdict, cell.counterexample) == ("inconclusive", None), said(cell)
    assert cell.note
    assert UNFIT[target] in cell.note
