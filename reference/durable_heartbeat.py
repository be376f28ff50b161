"""Keeps the leases of one pod: those on uploads, and those on the batches that it delivers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from podrace.reference.durable_store import DurableStore
from podrace.reference.runtime import Runtime

_log = logging.getLogger("podrace.durable")


class Heartbeat:
    """Renews every lease of this pod, as one actor, which ends when there is none."""

    def __init__(self, store: DurableStore, runtime: Runtime, *, lease_s: float, before: Callable[[], None]) -> None:
        self._store = store
        self._runtime = runtime
        self._lease_s = lease_s
        self._before = before
        self._lock = runtime.lock()
        self._held: dict[str, tuple[str, float]] = {}
        self._beats = False

    def hold(self, lease: str, holder: str, *, longest_s: float = float("inf")) -> None:
        """Renew a lease until it is let go, lost, or held for `longest_s`: then its holder hangs."""
        with self._lock:
            self._held[lease] = (holder, self._runtime.now() + longest_s)
            if self._beats:
                return
            self._beats = True
        self._runtime.spawn("heartbeat", self._beat)

    def let_go(self, lease: str) -> None:
        """No longer renew it; it lapses by itself where nobody has deleted it."""
        with self._lock:
            self._held.pop(lease, None)

    def _beat(self) -> None:
        while True:
            self._runtime.sleep(self._lease_s / 3)
            self._before()
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._beats = False
                    return
            for lease, (holder, until) in held.items():
                try:
                    if self._runtime.now() > until or not self._store.renew(lease, holder):
                        self.let_go(lease)  # another has it; what is under way here can still end first
                except Exception as error:  # redis-py's for a Cluster is no RedisError; the next beat comes in any case
                    _log.warning("lease %s: not renewed: %s", lease, error)
