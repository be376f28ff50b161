"""How pods of the plain services are put together: all that their authors had to write for podrace."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import podrace
from cases.common import Effects


def pod_of(module: str, name: str, *effects: str) -> Callable[[podrace.PodEnv], Any]:
    """A factory of pods; the service gets the methods of the ledger that `effects` names."""

    @podrace.own(f"cases.{module}")
    def make(env: podrace.PodEnv) -> Any:
        service = importlib.import_module(f"cases.{module}")
        return getattr(service, name)(*(getattr(env.ledger, effect) for effect in effects))

    return make


limiter_broken, limiter_mended = pod_of("plain_limiter", "Limiter"), pod_of("plain_limiter", "OneScript")
registry_broken, registry_mended = pod_of("plain_registry", "Registry"), pod_of("plain_registry", "RedisFirst")
visibility_broken, visibility_mended = (pod_of("plain_visibility", name, "put") for name in ("Queue", "Renewing"))
listener_broken, listener_mended = (pod_of("plain_listener", name, "put") for name in ("Listener", "Returning"))
lock_broken, lock_mended, lock_library = (
    pod_of("plain_lock", name, "enter", "leave") for name in ("Worker", "OneScript", "LibrarysLock")
)
payments_broken, payments_mended = (pod_of("plain_idempotency", name, "put") for name in ("Payments", "MarkedFirst"))
session_broken, session_mended = pod_of("plain_session", "Session"), pod_of("plain_session", "Watched")
waiter_broken, waiter_mended = pod_of("plain_waiter", "Waiter"), pod_of("plain_waiter", "SubscribesFirst")
leader_broken, leader_mended = pod_of("plain_leader", "Leader"), pod_of("plain_leader", "OneScript")
dependants_broken, dependants_mended = (
    pod_of("plain_dependants", "Jobs"),
    pod_of("plain_dependants", "InOneTransaction"),
)
careless, gives_back, lease = (pod_of("plain_cancelled", name, "put") for name in ("Careless", "Finally", "Lease"))

CANCELLED = podrace.Scenario(
    "a caller goes away",
    {"A": [podrace.Call("A", "do", ("a",))], "B": [podrace.Call("B", "do", ("b",))]},
    faults=[podrace.CancelCall()],
    workload=Effects(),
    keeps=["done"],
)
between = pod_of("plain_cancelled", "Between", "put")

ALONE = podrace.Scenario(
    "the only caller goes away",
    {"A": [podrace.Call("A", "do", ("a",)), podrace.Call("then", "do", ("b",))]},
    faults=[podrace.CancelCall()],
    workload=Effects(),
    keeps=["done"],
)
latest = pod_of("plain_cancelled", "LatestOnly", "put")


def is_the_last(run: podrace.Run) -> Iterator[podrace.Finding]:
    """The later value stays: the late request of a caller who has gone away must not overwrite it."""
    ended = {call.name: call for call in run.calls}
    if ended["later"].type == "ok" and run.redis.get("last") == "early":
        yield podrace.Finding("misreported", "last", "what was said early stands in the place of what was said later")


LATE = podrace.Scenario(
    "a request comes late",
    {"A": [podrace.Call("early", "say", ("early",)), podrace.Call("later", "say", ("later",))]},
    faults=[podrace.CancelCall()],
    workload=Effects(),
    checks=[is_the_last],
    keeps=["last"],
)
