"""Locks between the actors of one pod. Only one actor runs at a time, so nothing here needs a lock of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from podrace.simulator.world.steps import Gate


class LockState(NamedTuple):
    """A lock as another process sees it."""

    free: bool
    holder: str = ""


class VirtualLock:
    """A re-entrant mutex; an actor that has to wait for it stops at a gate. `me` tells who asks."""

    def __init__(self, gate: Gate, me: Callable[[], Any], name_of: Callable[[Any], str] = str) -> None:
        self._gate = gate
        self._me = me
        self._name_of = name_of
        self.owner: Any = None
        self.depth = 0

    @property
    def free(self) -> bool:
        return self.owner is None

    @property
    def holder(self) -> str:
        """The actor that holds it; empty for a free one."""
        return "" if self.owner is None else self._name_of(self.owner)

    def __eq__(self, other: object) -> bool:
        """Equal to any other: steps of two runs that wait for a lock are the same step."""
        return isinstance(other, VirtualLock | LockState)

    __hash__ = None  # type: ignore[assignment]

    def acquire(self) -> bool:
        me = self._me()
        while self.owner is not None and self.owner != me:
            self._gate.before("lock", (self,))
            self._gate.after("free")
        self.owner = me
        self.depth += 1
        return True

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()
