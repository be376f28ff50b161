"""The seam: all that the simulator needs from a target, and all that a target gets from the simulator.

A target is a factory `module:factory` that makes one Pod from one PodEnv. Everything a pod does to
the outside goes through its PodEnv, so that the harness can stand between any two steps.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import redis

from podrace.simulator.errors import TargetError, UsageError

Placeholder = dict[str, Any]
"""`{"upload_uuid": str, "filename": str, "pending": True}`: what stands for an image until it is uploaded."""


@runtime_checkable
class Pod(Protocol):
    """One instance of the service. Its methods may raise; what they raise is written into the history."""

    def add_message(
        self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str
    ) -> list[Placeholder]:
        """Accept a message; returning is the promise that it and every image arrive once, or are named as missing.

        Named as missing is what arrives as a part `{"type": "missing_image", "filename", "reason"}` or
        `{"type": "missing_message", "message_id", "reason"}`.

        An image is a file, or the placeholder of an earlier message that shows the same picture again.
        """
        ...

    def absorb(self, user_id: str) -> int:
        """Deliver what is ready of one user's messages, in order. Returns the number of messages delivered."""
        ...

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        """`{"status": "pending" | "completed" | "failed" | "unknown", "result": dict | None}`."""
        ...

    def close(self) -> None:
        """Stop the pod's own actors. Called once, at the end of a run under the real clock."""
        ...


class FilesService(Protocol):
    """The part of google-genai's files service that a pod uses."""

    def upload(self, *, file: Any) -> Any:
        """Upload the file at a path. Returns an object with `uri`, `name` and `create_time`."""
        ...


class MemoryAgent(Protocol):
    """The end of the line: what it has recorded has been delivered."""

    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str | None = None) -> None:
        """Record one batch; a `batch_id` already recorded has no second effect."""
        ...


class Runtime(Protocol):
    """Time and concurrency, so that both can be real or virtual."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        """Run `function` as an actor of this pod."""
        ...

    def lock(self) -> AbstractContextManager[Any]:
        """A mutex between the actors of this pod."""
        ...


@dataclass(frozen=True)
class PodEnv:
    """What one pod has of the outside world."""

    name: str
    redis: redis.Redis
    prefix: str
    gemini: FilesService
    memory: MemoryAgent
    runtime: Runtime
    rng: random.Random
    options: Mapping[str, Any] = field(default_factory=dict)


Target = Callable[[PodEnv], Pod]


def make_pod(target: Target, env: PodEnv) -> Pod:
    """What the factory makes; TargetError where that is no pod."""
    try:
        pod = target(env)
    except Exception as error:
        raise TargetError(
            f"the target's factory raised {type(error).__name__}: {error}; expected it to return a pod"
        ) from error
    if not _is_pod(type(pod)) and not isinstance(pod, Pod):
        raise TargetError(f"the target's factory returned {type(pod).__name__}; expected it to return a pod")
    return pod


@cache
def _is_pod(kind: type) -> bool:
    """Looking for a protocol's methods takes longer than making most pods."""
    return issubclass(kind, Pod)


def load_object(path: str, *, what: str) -> Any:
    """The object that `module:name` names; UsageError where there is none."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{what} {path!r}: expected the form module:name, for example mypackage.pods:factory")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{what} {path!r}: cannot import {module_name}: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UsageError(f"{what} {path!r}: module {module_name} has no {attribute}") from error


def load_target(path: str) -> Target:
    """The factory that `module:factory` names; UsageError where there is none."""
    target: Target = load_object(path, what="target")
    if not callable(target):
        raise UsageError(f"target {path!r}: expected a factory that takes a PodEnv, got {type(target).__name__}")
    return target
