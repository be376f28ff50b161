"""What cannot be led is noticed where it happens, and ends the run with a message that names the place.

Python tells its audit hooks of it (https://docs.python.org/3/library/audit_events.html). A hook cannot be taken away
again; this one does nothing outside a `watched` block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from podrace.simulator.world.plain.inside import place_of, unled

Refuse = Callable[[Callable[[], Exception]], None]
"""Ends the run of the pod whose actor is running with the error that is made; does nothing where none is running."""

_SLEEP = "use runtime.sleep, or name the module that sleeps in @podrace.own"
_THREAD = "use runtime.spawn, or name the module that starts it in @podrace.own"
_OUTSIDE = "make what it talks to a service of the workload"
_EVENTS = {
    "time.sleep": ("sleeps", _SLEEP),
    "_thread.start_new_thread": ("starts a thread", _THREAD),
    "_thread.start_joinable_thread": ("starts a thread", _THREAD),
    "socket.connect": ("opens a connection of its own", _OUTSIDE),
    "socket.getaddrinfo": ("looks up an address", _OUTSIDE),
    "socket.sendto": ("sends a packet of its own", _OUTSIDE),
    "subprocess.Popen": ("starts a process", _OUTSIDE),
    "os.system": ("starts a process", _OUTSIDE),
    "os.fork": ("starts a process", _OUTSIDE),
    "os.posix_spawn": ("starts a process", _OUTSIDE),
}
_watchers: list[Refuse] = []
_hooks: list[object] = []


@contextmanager
def watched(refuse: Refuse) -> Iterator[None]:
    """Meanwhile a pod that does what cannot be led is refused."""
    if not _hooks:
        _hooks.append(_hook)
        sys.addaudithook(_hook)
    _watchers.append(refuse)
    try:
        yield
    finally:
        _watchers.remove(refuse)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watchers and event in _EVENTS:
        frame = sys._getframe(1)
        if not _is_the_harness(frame):
            what, instead = _EVENTS[event]
            _watchers[-1](lambda: unled(what, place_of(frame), instead))


def _is_the_harness(frame: Any) -> bool:
    """Whether a client of the harness's is connecting."""
    while frame is not None:
        if frame.f_code.co_filename.endswith("world/client.py"):
            return True
        frame = frame.f_back
    return False
