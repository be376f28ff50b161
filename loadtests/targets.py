"""What can be driven under load. The next target is one more entry of TARGETS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from podrace.reference import targets
from podrace.reference.store import LocalStore, RedisStore, UploadStore
from podrace.simulator.errors import UsageError
from podrace.simulator.judge.checks import HOLDS, VIOLATED
from podrace.simulator.target import PodEnv, Target

STORE, UPLOAD, QUEUE = "load-store", "load-upload", "load-queue"
"""The scenarios: statuses written and read, whole lives of uploads, text messages between pods."""


@dataclass(frozen=True, kw_only=True)
class LoadTarget:
    """`expected`: the verdict by scenario, with two pods or more and no fault."""

    factory: Target
    store: Callable[[PodEnv], UploadStore]
    expected: Mapping[str, str]


TARGETS = {
    "local": LoadTarget(
        factory=targets.local,
        store=lambda env: LocalStore(env.runtime),
        expected={STORE: VIOLATED, UPLOAD: VIOLATED, QUEUE: HOLDS},
    ),
    "shared": LoadTarget(
        factory=targets.shared,
        store=lambda env: RedisStore(env.redis, env.runtime, prefix=f"{env.prefix}store:"),
        expected={STORE: HOLDS, UPLOAD: HOLDS, QUEUE: HOLDS},
    ),
}


def find_target(name: str) -> LoadTarget:
    """The target of a name; UsageError for any other."""
    if name not in TARGETS:
        raise UsageError(f"target {name!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[name]
