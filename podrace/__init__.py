"""Makes cross-pod races happen on purpose, every time, on one laptop.

    from podrace import Call, Kill, Scenario, explore

    TRANSFER = Scenario("transfer", lines={"A": [Call("out", "transfer", ("alice", "bob", 10))]}, faults=[Kill()])
    cell = explore("wallet:pod", TRANSFER)
    print(cell.verdict, cell.words, cell.sentence)

- `Call`, `Ref`, `Scenario`, `Workload`: what clients call, and what is promised
- `Kill`, `CancelCall`, `TimePasses`, `LoseConnection`, `CorruptKey`, `FailService`: what the harness does on purpose
- `Run`, `Finding`: what a check gets, and what it returns
- `PodEnv`: what a target gets; `own`: marks a factory of pods whose code knows of no harness
- `explore`, `replay`: search all schedules within bounds; run a counterexample again
- `Cell`: what became of a target in a scenario

The four rooms stand beside this file: `podrace.reference` (the service under test), `podrace.simulator` (drives
pods, finds the losing schedule, judges it), `podrace.loadtests` (Locust) and `podrace.reports`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podrace.simulator.app.api import explore, replay
    from podrace.simulator.app.runs import Cell
    from podrace.simulator.judge.findings import Finding
    from podrace.simulator.judge.run import Run
    from podrace.simulator.scenarios.faults import CancelCall, CorruptKey, FailService, Kill, LoseConnection, TimePasses
    from podrace.simulator.scenarios.model import Call, Ref, Scenario, Workload
    from podrace.simulator.target import PodEnv, own

__all__ = [
    "Call",
    "CancelCall",
    "Cell",
    "CorruptKey",
    "FailService",
    "Finding",
    "Kill",
    "LoseConnection",
    "PodEnv",
    "Ref",
    "Run",
    "Scenario",
    "TimePasses",
    "Workload",
    "explore",
    "own",
    "replay",
]

_PLACES = {
    "app.api": ("explore", "replay"),
    "app.runs": ("Cell",),
    "judge.findings": ("Finding",),
    "judge.run": ("Run",),
    "scenarios.faults": ("CancelCall", "CorruptKey", "FailService", "Kill", "LoseConnection", "TimePasses"),
    "scenarios.model": ("Call", "Ref", "Scenario", "Workload"),
    "target": ("PodEnv", "own"),
}


def __getattr__(name: str) -> Any:
    """Loaded when it is first asked for: redis-py and google-genai take their time. Then it stays here."""
    for module, names in _PLACES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"podrace.simulator.{module}"), name)
            return found
    raise AttributeError(f"podrace has no {name}")
