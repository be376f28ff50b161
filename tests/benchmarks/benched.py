"""The targets that are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Benched:
    """`path`: the target's factory. `floor`: what its store is compared with, `redis` or `memory`."""

    path: str
    floor: str
    store: Callable[[Any], Any] = lambda pod: pod.upload_manager._store
    """The four functions of the specification, of a pod."""


TARGETS: Mapping[str, Benched] = {
    "local": Benched("podrace.reference.targets:local", "memory"),
    "shared": Benched("podrace.reference.targets:shared", "redis"),
}
"""Every target that is measured; a further one joins by an entry."""
