"""The public way in from Python: what the commands `explore` and `replay` do, as functions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podrace.simulator.app import campaign, counterexample
from podrace.simulator.app.names import named_scenario, named_target
from podrace.simulator.app.runs import Cell
from podrace.simulator.errors import UsageError
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search.frontier import Bounds
from podrace.simulator.servers.connection import open_server


def explore(
    target: str | Callable[..., Any],
    scenario: str | Scenario,
    *,
    preemptions: int = 2,
    faults: int = 1,
    budget_s: float = 300.0,
    seed: int = 7,
    folder: str | os.PathLike[str] | None = None,
    redis_url: str | None = None,
    on_processes: bool = True,
) -> Cell:
    """Search all schedules of a scenario within bounds. Returns what the command's `--json` prints of the cell.

    `target` is a factory at the top of a module, or `module:factory`; `scenario` a Scenario, a name of the
    catalogue, or `module:NAME`. What is violated is written into `folder`; without one it is gone with the call.
    What is found is run once on processes too, unless `on_processes` is false.

    Raises UsageError for a wrong target or scenario, HarnessError where the harness itself fails.
    """
    bounds = Bounds(preemptions=preemptions, faults=faults, budget_s=budget_s)
    with tempfile.TemporaryDirectory(prefix="podrace-run-") as temporary, open_server(redis_url) as server:
        return campaign.explore_cell(
            server,
            named_target(target),
            named_scenario(scenario),
            bounds,
            seed=seed,
            folder=Path(folder or temporary),
            on_processes=on_processes,
        )


def replay(
    file: str | os.PathLike[str],
    *,
    fleet: str = "processes",
    scenario: Scenario | None = None,
    redis_url: str | None = None,
) -> campaign.Replayed:
    """Run the schedule of a counterexample again, on `processes` or `inline`. Pass `scenario` if it has no name.

    Raises UsageError for a file that is not a counterexample, TargetError if the target does something else now.
    """
    if fleet not in ("processes", "inline"):
        raise UsageError(f"fleet {fleet!r}: expected processes or inline")
    saved = counterexample.load(Path(file))
    with open_server(redis_url) as server:
        return campaign.replayed(server, saved, fleet, scenario)
