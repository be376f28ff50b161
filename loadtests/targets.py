"""What can be driven under load: ours by name, anybody's as `module:factory`, or as `module:` and a LoadTarget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podrace.reference import targets
from podrace.reference.store import LocalStore, RedisStore
from podrace.simulator.errors import UsageError
from podrace.simulator.judge.findings import HOLDS, VIOLATED
from podrace.simulator.target import PodEnv, Target, load_object

STORE, UPLOAD, QUEUE = "load-store", "load-upload", "load-queue"
"""The scenarios: statuses written and read, whole lives of uploads, text messages between pods."""


@dataclass(frozen=True, kw_only=True)
class LoadTarget:
    """`store`: the four functions of the specification, for users that ask them; None where there are none.

    `violated`: the scenarios that it is expected to violate, with two pods or more and no fault.
    """

    factory: Target
    store: Callable[[PodEnv], Any] | None = None
    violated: frozenset[str] = frozenset()

    def expected(self, scenario: str) -> str:
        return VIOLATED if scenario in self.violated else HOLDS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the master tells every worker. Never print it: `redis_url` may hold a password."""

    token: str
    target: str
    redis_url: str = field(repr=False)
    prefix: str
    files_url: str
    pods: int
    image_size_bytes: int
    rate_per_s: float
    seed: int


TARGETS: Mapping[str, LoadTarget] = {
    "local": LoadTarget(
        factory=targets.local,
        store=lambda env: LocalStore(env.runtime),
        violated=frozenset({STORE, UPLOAD}),
    ),
    "shared": LoadTarget(
        factory=targets.shared,
        store=lambda env: RedisStore(env.redis, env.runtime, prefix=f"{env.prefix}store:"),
    ),
    "durable": LoadTarget(factory=targets.durable),
}


def find_target(name: str) -> LoadTarget:
    """The target of a name, or of the factory that it names; UsageError for any other."""
    if name in TARGETS:
        return TARGETS[name]
    if ":" not in name:
        raise UsageError(f"target {name!r}: expected one of {', '.join(TARGETS)}, or module:factory")
    found = load_object(name, noun="target")
    if isinstance(found, LoadTarget):
        return found
    if not callable(found):
        raise UsageError(f"target {name!r}: expected a factory that takes a PodEnv, got {type(found).__name__}")
    return LoadTarget(factory=found)
