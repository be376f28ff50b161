"""What cannot be led is noticed where it happens, and ends the run with a message that names the place.

Python tells its audit hooks of it (https://docs.python.org/3/library/audit_events.html). A hook cannot be taken away
again; this one does nothing outside a `watched` block. Of sleeps Python tells since 3.13, of threads since 3.12:
before that, the functions themselves are replaced meanwhile, wherever a module names them.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, TextIO

from podrace.simulator.errors import place_of
from podrace.simulator.world.plain.inside import unled

Refuse = Callable[[Callable[[], Exception]], None]
"""Ends the run of the pod whose actor is running with the error that is made; does nothing where none is running."""

_SLEEP = "use runtime.sleep, or name the module that sleeps in @podrace.own"
_THREAD = "use runtime.spawn, or name the module that starts it in @podrace.own"
_OUTSIDE = "make what it talks to a service of the workload"
_CONNECTS = f"name the package that makes the client in @podrace.own where that is one of Redis, else {_OUTSIDE}"
_EVENTS = {
    "time.sleep": ("sleeps", _SLEEP),
    "_thread.start_new_thread": ("starts a thread of its own", _THREAD),
    "_thread.start_joinable_thread": ("starts a thread of its own", _THREAD),
    "socket.connect": ("opens a connection of its own", _CONNECTS),
    "socket.getaddrinfo": ("looks up an address", _CONNECTS),
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
        with _replaced() if sys.version_info < (3, 13) else nullcontext():
            yield
    finally:
        _watchers.remove(refuse)


_REAL: dict[str, Any] = {"time.sleep": time.sleep, "_thread.start_new_thread": _thread.start_new_thread}
_known: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
"""By name, a module with the names that it has for these functions, and the functions' own."""


@contextmanager
def _replaced() -> Iterator[None]:
    watching = {event: _watching(event, real) for event, real in _REAL.items()}
    events = {id(real): event for event, real in _REAL.items()}
    for name, module in list(sys.modules.items()):
        if name not in _known or _known[name][0] is not module:
            held = list(getattr(module, "__dict__", {}).items())
            _known[name] = module, [(key, events[id(value)]) for key, value in held if id(value) in events]
    places = [(module.__dict__, key, event) for module, found in _known.values() for key, event in found]
    places = [(names, key, event) for names, key, event in places if names.get(key) is _REAL[event]]
    for names, key, event in places:
        names[key] = watching[event]
    try:
        yield
    finally:
        for names, key, event in places:
            names[key] = _REAL[event]


def _watching(event: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        _hook(event, args)
        return real(*args, **options)

    return function


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watchers and event in _EVENTS:
        frame = sys._getframe(1)
        if not _is_the_harness(frame):
            what, instead = _EVENTS[event]
            try:
                _watchers[-1](lambda: unled(what, place_of(frame), instead))
            except BaseException:
                if event == "socket.connect":  # nobody else will close it
                    args[0].close()
                raise


def _is_the_harness(frame: Any) -> bool:
    """Whether a client of the harness's is connecting."""
    while frame is not None:
        if frame.f_code.co_filename.endswith("world/client.py"):
            return True
        frame = frame.f_back
    return False


def native_threads() -> int:
    """How many threads of this process Python knows nothing of; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task")) - len(threading.enumerate())
    except OSError:
        return 0


class Prints:
    """Stands for the standard output: what pods print in every schedule is left out, and noted."""

    def __init__(self, real: TextIO, in_pod: Callable[[], bool]) -> None:
        self._real = real
        self._in_pod = in_pod
        self.place = ""
        """Where a pod has first printed something."""

    def write(self, text: str) -> int:
        if not self._in_pod():
            return self._real.write(text)
        self.place = self.place or place_of(sys._getframe(1))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def without_prints(in_pod: Callable[[], bool]) -> Iterator[Prints]:
    """Meanwhile nothing that a pod prints comes among what a command prints."""
    prints: Any = Prints(sys.stdout, in_pod)
    with redirect_stdout(prints):
        yield prints
