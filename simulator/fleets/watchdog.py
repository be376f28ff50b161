"""The watchdog over pods in this process: a target that never comes back is told, with the place where it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from types import FrameType

import greenlet

from podrace.simulator.errors import TargetError, place_of
from podrace.simulator.fleets.inline import leave, raise_in_harness
from podrace.simulator.interrupts import ctrl_c_as_interrupted

STEP_WITHIN_S = 5.0
WHAT_TO_DO = "expected every wait to go through env, or through what @podrace.own leads"


class _BlockedError(BaseException):
    """Raised in the harness when a step takes too long; its text says who took it, and where."""


@contextmanager
def watchdog(moves: Callable[[], object], *, unblock: Callable[[], str], most_s: float = inf) -> Iterator[None]:
    """Turns a target that never comes back into a TargetError: `moves` tells something else after every step.

    A step may take STEP_WITHIN_S, and never more than `most_s`. `unblock` frees what a blocked step holds, and says
    what that was, or ''. An actor that catches even that is left where it stands. Works in the main thread, where
    signals arrive; elsewhere it does nothing.
    """
    hub = greenlet.getcurrent()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    within_s = min(STEP_WITHIN_S, most_s)
    seen: object = None

    def check_progress(_: int, frame: FrameType | None) -> None:
        nonlocal seen
        before, seen = seen, moves()
        if seen != before:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)  # `unblock` may take longer than a step
        actor = greenlet.getcurrent()
        who = getattr(actor, "name", "the target")
        place = f", at {place_of(frame)}" if frame and actor is not hub else ""
        reason = unblock() or f"it blocks, or loops, outside its environment; {WHAT_TO_DO}"
        error = _BlockedError(f"{who} did not come back within {within_s:g} s{place}: {reason}")
        if actor is hub:
            raise error
        leave(actor)
        hub.throw(error)

    before = signal.signal(signal.SIGALRM, check_progress)
    signal.setitimer(signal.ITIMER_REAL, within_s, within_s)
    try:
        with ctrl_c_as_interrupted(raise_in_harness):
            yield
    except _BlockedError as error:
        raise TargetError(str(error)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
