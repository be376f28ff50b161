"""Makes a pod of plain code: its modules in a view of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podrace.simulator.target import PodEnv, Target
from podrace.simulator.world.plain.inside import Inside
from podrace.simulator.world.view import View


def target_in(make_view: Callable[[], View], path: str) -> Target:
    """A factory whose pod has a view of its own, in which the target is loaded."""
    module_name, _, attribute = path.partition(":")

    def make(env: PodEnv) -> Any:
        inside = Inside(env)
        inside.gate.inside = inside
        inside.view = make_view()
        return getattr(inside.view.load(module_name), attribute)(env)

    return make
