"""Makes a pod of plain code: its modules in a view of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
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
        pod = called(inside, getattr(inside.view.load(module_name), attribute), (env,))
        return None if pod is None else _pod_class(type(pod).__name__)(inside, pod)

    return make


class PlainPod:
    """The pod that a factory has made; its methods may be coroutine functions."""

    def __init__(self, inside: Inside, pod: Any) -> None:
        self._inside = inside
        self._pod = pod

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pod, name)
        return (lambda *args: called(self._inside, found, args)) if callable(found) else found


@lru_cache(maxsize=100)
def _pod_class(name: str) -> type[PlainPod]:
    """Messages name a pod by its class."""
    return type(name, (PlainPod,), {})


def called(inside: Inside, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What it returns, or what the coroutine does that it returns."""
    result = method(*args)
    if not inspect.isawaitable(result):
        return result
    from podrace.simulator.world.plain import loop  # only where there is something to await

    return (loop.awaited if inside.gate.virtual else loop.awaited_freely)(inside, result)
