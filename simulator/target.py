"""The seam: all that the simulator needs from a target, and all that a target gets from the simulator.

A target is a factory `module:factory` that makes one pod from one PodEnv. Everything a pod does to the outside
goes through its PodEnv, so that the harness can stand between any two steps. A pod is any object whose methods
can be called; which ones, its workload says.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis

from podrace.simulator.errors import TargetError, UsageError, error_in_words, place_of
from podrace.simulator.interrupts import Interrupted, ctrl_c_as_interrupted


class Runtime(Protocol):
    """Time and concurrency, so that both can be real or virtual."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def spawn(self, name: str, function: Callable[[], None]) -> Any:
        """Run `function` as an actor of this pod."""
        ...

    def lock(self) -> AbstractContextManager[Any]:
        """A mutex between the actors of this pod."""
        ...


@dataclass(frozen=True)
class PodEnv:
    """What one pod has of the outside world. A service can be had as an attribute too: `env.memory`.

    `prefix` is that of every key that the pod may write; `options` are what the scenario sets.
    """

    name: str
    redis: redis.Redis
    prefix: str
    runtime: Runtime
    rng: random.Random
    services: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        services = self.__dict__.get("services", {})
        if name in services:
            return services[name]
        raise AttributeError(f"the environment has no {name}; its services: {', '.join(services) or 'none'}")


Target = Callable[[PodEnv], Any]


def own(*packages: str) -> Callable[[Target], Target]:
    """Marks a factory of pods that are plain code: nothing in it knows of a harness.

    The packages and modules named, the factory's module, and what else lies beside that, are each pod's own: threads,
    time, chance, and clients of Redis and Gemini, are there what the harness leads. All other modules are shared as
    they are. Raises UsageError for what is no name of a module.
    """
    for package in packages:
        if not isinstance(package, str) or not all(map(str.isidentifier, package.split("."))):
            raise UsageError(
                f"@podrace.own({package!r}): expected names of modules, for example @podrace.own('mirix.agent')"
            )

    def mark(factory: Target) -> Target:
        factory.own_packages = packages  # type: ignore[attr-defined]
        return factory

    return mark


def is_plain(target: Target) -> bool:
    """Whether `own` has marked it."""
    return hasattr(target, "own_packages")


def make_pod(target: Target, env: PodEnv) -> Any:
    """What the factory makes; TargetError where it raises or makes nothing."""
    try:
        pod = target(env)
    except TargetError:
        raise
    except Exception as error:
        raised = error_in_words(error) + _raised_at(error)
        raise TargetError(f"the target's factory raised {raised}; expected it to return a pod") from error
    if inspect.iscoroutine(pod):
        pod.close()  # nobody awaits it, and Python would say so
    if pod is None or inspect.iscoroutine(pod):
        raise TargetError(f"the target's factory returned {type(pod).__name__}; expected it to return a pod")
    return pod


def make_pod_here(target: Target, env: PodEnv) -> Any:
    """The same for a caller outside any run, which SystemExit and KeyboardInterrupt would end as well."""
    try:
        return make_pod(target, env)
    except (SystemExit, KeyboardInterrupt) as error:
        raise error if isinstance(error, Interrupted) else left("the target's factory", error) from error


def left(who: str, error: BaseException) -> TargetError:
    """The error of a target that raises what nobody catches, and would so end its thread or its process."""
    return TargetError(f"{who} raised {type(error).__name__}: expected the target to return or to raise an Exception")


def _raised_at(error: Exception) -> str:
    """Its place, or nothing where the call itself failed."""
    trace = error.__traceback__
    if trace is None or trace.tb_next is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f", at {place_of(trace.tb_frame)}"


def method_of(pod: Any, name: str) -> Callable[..., Any]:
    """A pod's method; TargetError where there is none that can be called."""
    method = getattr(pod, name, None)
    if not callable(method):
        raise TargetError(f"the pod ({type(pod).__name__}) has no method {name}, which the scenario calls")
    code = getattr(method, "__code__", None)  # inspect takes ten times as long, and this is asked of every call
    if (code is None or code.co_flags & inspect.CO_COROUTINE) and inspect.iscoroutinefunction(method):
        raise TargetError(
            f"the pod's method {name} is a coroutine function; expected a plain function, or a factory "
            "that @podrace.own marks: its pods may have coroutine functions for methods"
        )
    return method  # type: ignore[no-any-return]


def load_object(path: str, *, noun: str) -> Any:
    """The object that `module:name` names; UsageError where there is none."""
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise UsageError(f"{noun} {path!r}: expected the form module:name, for example mypackage.pods:factory")
    try:
        with ctrl_c_as_interrupted():
            module = importlib.import_module(module_name)
    except (Interrupted, UsageError):
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, ImportError) else f"it raised {error_in_words(error)}"
        raise UsageError(f"{noun} {path!r}: cannot import {module_name}: {reason}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UsageError(f"{noun} {path!r}: module {module_name} has no {attribute}") from error


def load_target(path: str) -> Target:
    """The factory that `module:factory` names; UsageError where there is none."""
    target: Target = load_object(path, noun="target")
    if not callable(target):
        raise UsageError(f"target {path!r}: expected a factory that takes a PodEnv, got {type(target).__name__}")
    return target
