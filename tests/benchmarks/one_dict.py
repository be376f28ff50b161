"""A target for load tests whose store is one dict in the process, so that no server takes a core from the users."""

from __future__ import annotations

from podrace.loadtests.targets import LoadTarget
from podrace.reference import targets
from podrace.reference.runtime import ThreadRuntime
from podrace.reference.store import LocalStore

STORE = LocalStore(ThreadRuntime())
target = LoadTarget(factory=targets.shared, store=lambda env: STORE)
