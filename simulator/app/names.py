"""What has a short name on the command line: targets, and the scenarios of the catalogue."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from podrace.simulator.errors import UsageError

if TYPE_CHECKING:
    from podrace.simulator.scenarios.model import Scenario, Workload

Kind = TypeVar("Kind")
PARTS = {"memory": "podrace.reference.memory:MemoryLedger", "gemini": "podrace.reference.gemini:GeminiFiles"}
"""The real parts that a pod's process builds, by name: the simulator imports none of them."""

TARGETS = {name: f"podrace.reference.targets:{name}" for name in ("local", "shared", "durable")}


@dataclass(frozen=True)
class NamedTarget:
    """A target and the short name that tables show."""

    name: str
    path: str


def named_target(given: str | Callable[..., Any]) -> NamedTarget:
    """A name of TARGETS, `module:factory`, or a factory at the top of a module."""
    text = given if isinstance(given, str) else f"{given.__module__}:{given.__qualname__}"
    path = TARGETS.get(text, text)
    if ":" not in path:
        raise UsageError(f"target {text!r}: expected {', '.join(TARGETS)}, or module:factory")
    _look_in_this_folder()
    return NamedTarget(next((name for name in TARGETS if TARGETS[name] == path), text), path)


def named_scenario(given: str | Scenario) -> Scenario:
    """A scenario, one of the catalogue by its name, or `module:NAME`, which is its name from then on."""
    from podrace.simulator.scenarios.catalogue import find
    from podrace.simulator.scenarios.model import Scenario

    if not isinstance(given, str):
        return given
    if ":" not in given:
        return find(given)
    return replace(_loaded(given, Scenario, "scenario"), name=given)


def named_workload(text: str | None) -> Workload:
    """The uploads workload with its clients, or `module:NAME`."""
    from podrace.simulator.scenarios.model import Workload
    from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS

    if text is None:
        return FREE_UPLOADS
    workload = _loaded(text, Workload, "workload")
    if type(workload).client is Workload.client:
        raise UsageError(f"workload {text!r}: it has no clients for a free-running fleet; expected a method `client`")
    return workload


def _loaded(text: str, kind: type[Kind], noun: str) -> Kind:
    from podrace.simulator.target import load_object

    _look_in_this_folder()
    found = load_object(text, noun=noun)
    if not isinstance(found, kind):
        raise UsageError(f"{noun} {text!r}: expected a podrace.{kind.__name__}, got {type(found).__name__}")
    return found


def _look_in_this_folder() -> None:
    """Let modules be imported from the current folder: `python -m` does so by itself, a console script does not."""
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
