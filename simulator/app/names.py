"""What has a short name on the command line: targets, and the scenarios of the catalogue."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from podrace.simulator.app.campaign import NamedScenario, NamedTarget
    from podrace.simulator.scenarios.model import Workload

PARTS = {"memory": "podrace.reference.memory:MemoryLedger", "gemini": "podrace.reference.gemini:GeminiFiles"}
"""The real parts that a pod's process builds, by name: the simulator imports none of them."""

TARGETS = {name: f"podrace.reference.targets:{name}" for name in ("local", "shared", "durable")}


def named_target(text: str) -> NamedTarget:
    """A name of TARGETS, or `module:factory`."""
    from podrace.simulator.app.campaign import NamedTarget

    path = TARGETS.get(text, text)
    if ":" not in path:
        raise UsageError(f"target {text!r}: expected {', '.join(TARGETS)}, or module:factory")
    _look_in_this_folder()
    return NamedTarget(next((name for name in TARGETS if TARGETS[name] == path), text), path)


def named_scenario(text: str) -> NamedScenario:
    """A name of the catalogue, or `module:NAME`."""
    from podrace.simulator.app.campaign import NamedScenario
    from podrace.simulator.scenarios.catalogue import find
    from podrace.simulator.scenarios.model import Scenario
    from podrace.simulator.target import load_object

    if ":" not in text:
        return NamedScenario(text, find(text))
    _look_in_this_folder()
    scenario = load_object(text, noun="scenario")
    if not isinstance(scenario, Scenario):
        raise UsageError(f"scenario {text!r}: expected a podrace.Scenario, got {type(scenario).__name__}")
    return NamedScenario(text, scenario)


def named_workload(text: str | None) -> Workload:
    """The uploads workload with its clients, or `module:NAME`."""
    from podrace.simulator.scenarios.model import Workload
    from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS
    from podrace.simulator.target import load_object

    if text is None:
        return FREE_UPLOADS
    _look_in_this_folder()
    workload = load_object(text, noun="workload")
    if not isinstance(workload, Workload):
        raise UsageError(f"workload {text!r}: expected a podrace.Workload, got {type(workload).__name__}")
    if type(workload).client is Workload.client:
        raise UsageError(f"workload {text!r}: it has no clients for a free-running fleet; expected a method `client`")
    return workload


def _look_in_this_folder() -> None:
    """Let modules be imported from the current folder: `python -m` does so by itself, a console script does not."""
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
