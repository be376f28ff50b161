"""What cannot be led is noticed where it happens, and ends the run with a message that names the place.

Within a `watched` block functions that sleep, start threads or processes, or talk to the outside stand behind a check,
wherever a module names them; so do clocks and chance, which only a target's own modules may not use. (Python's audit
hooks tell of most of it too, but cannot be taken away again, and cost a tenth of a search.)
"""

from __future__ import annotations

import _posixsubprocess
import _thread
import atexit
import ctypes
import fcntl
import importlib.util
import multiprocessing.context
import os
import random
import resource
import runpy
import secrets
import select
import selectors
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from podrace.simulator.errors import place_of
from podrace.simulator.world.plain.inside import unled

Refuse = Callable[[Callable[[], Exception]], None]
"""Ends the run of the pod whose actor is running with the error that is made; does nothing where none is running."""

_OUTSIDE = "make what it talks to a service of the workload"
_CONNECTS = f"name the package that makes the client in @podrace.own where that is one of Redis, else {_OUTSIDE}"
_SLEEPS = "sleeps", "use runtime.sleep, or name the module that sleeps in @podrace.own"
_STARTS_THREAD = "starts a thread of its own", "use runtime.spawn, or name the module that starts it in @podrace.own"
_STARTS_PROCESS = "starts a process", _OUTSIDE
_WAITS_FOR_PROCESS = "starts or waits for processes", _OUTSIDE
_SHARES = "shares something with processes", "within a pod use that of threading or of queue"
_CHANGES_PROCESS = "changes what all pods of one process would share", "keep it in the pod, or hand it in as an option"
_WAITS = "waits for files or sockets", _OUTSIDE
_SIGNALS = "handles or sends signals", "leave that to the program around the pod"
_CLOSES = "closes a file descriptor that it has not opened", "let it close only what is its own"
_READS_CLOCK = (
    "reads a clock that is not the run's",
    "use env.runtime.now(), or import time in a module that @podrace.own names",
)
_BY_CHANCE = "draws at random", "use env.rng, or import random in a module that @podrace.own names"
_CALLS_C = "calls a library in C", _OUTSIDE
_LOCKS_FILE = "locks a file", _OUTSIDE
_OPENS_PAIR = "opens sockets or pipes", "let the threads of a pod talk by a queue.Queue"
_ASKS_FOR_TIMES = "asks for the time of a file", "keep the time beside the file, as time.time() tells it"
_BESIDE_IMPORTS = "runs a module beside its imports", "import it by its name"

_SHARED = (
    *("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier"),
    *("Queue", "JoinableQueue", "SimpleQueue", "Pipe", "Value", "Array", "RawValue", "RawArray"),
)

Table = tuple[tuple[Any, Iterable[str], tuple[str, str]], ...]
"""Of a module or class: functions, what they do, and what to do instead. Some Pythons and systems lack some of them."""
_REFUSED: Table = (
    (time, ("sleep",), _SLEEPS),
    (_thread, ("start_new_thread", "start_joinable_thread"), _STARTS_THREAD),
    (socket.socket, ("connect", "connect_ex"), ("opens a connection of its own", _CONNECTS)),
    (socket.socket, ("sendto", "sendmsg"), ("sends a packet of its own", _OUTSIDE)),
    (socket.socket, ("bind",), ("opens a port of its own", _OUTSIDE)),
    (
        socket,
        ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"),
        ("looks up an address", _CONNECTS),
    ),
    (select, ("select", "poll", "epoll", "kqueue"), _WAITS),
    (selectors.DefaultSelector, ("select",), _WAITS),
    (selectors.SelectSelector, ("select",), _WAITS),
    (selectors.PollSelector, ("select",), _WAITS),
    (subprocess.Popen, ("_execute_child",), _STARTS_PROCESS),
    (_posixsubprocess, ("fork_exec",), _STARTS_PROCESS),
    (os, ("system", "fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve"), _STARTS_PROCESS),
    (os, ("putenv", "unsetenv", "chdir", "umask", "nice", "setpriority"), _CHANGES_PROCESS),
    (sys, ("setrecursionlimit",), _CHANGES_PROCESS),
    (resource, ("setrlimit",), _CHANGES_PROCESS),
    (os, ("kill", "killpg"), _SIGNALS),
    (signal, ("setitimer", "alarm", "pause", "pthread_kill"), _SIGNALS),
    (signal, ("sigwait", "sigwaitinfo", "sigtimedwait"), _SIGNALS),
    (os, ("_exit", "abort"), ("ends its process", "let it raise an exception, or return")),
)
_REFUSED_IN_OWN: Table = (
    (time, ("time", "time_ns", "monotonic", "monotonic_ns"), _READS_CLOCK),
    (uuid, ("uuid1", "uuid4"), _BY_CHANCE),
    (os, ("urandom",), _BY_CHANCE),
    (atexit, ("register",), _CHANGES_PROCESS),
    (secrets, [name for name in secrets.__all__ if name.startswith(("token", "rand", "choice"))], _BY_CHANCE),
    (
        random,
        [name for name, one in vars(random).items() if isinstance(getattr(one, "__self__", None), random.Random)],
        _BY_CHANCE,
    ),
    (ssl, ("RAND_bytes",), _BY_CHANCE),
    (os, ("times", "getloadavg"), _READS_CLOCK),
    (resource, ("getrusage",), _READS_CLOCK),
    (os.path, ("getmtime", "getatime", "getctime"), _ASKS_FOR_TIMES),
    (os, ("wait", "wait3", "wait4", "waitpid"), _WAITS_FOR_PROCESS),
    (fcntl, ("flock", "lockf"), _LOCKS_FILE),
    (socket, ("socketpair",), _OPENS_PAIR),
    (multiprocessing, _SHARED, _SHARES),
    (multiprocessing.context.BaseContext, _SHARED, _SHARES),
    (runpy, ("run_path", "run_module"), _BESIDE_IMPORTS),
    (importlib.util, ("module_from_spec",), _BESIDE_IMPORTS),
    (ctypes.CDLL, ("__init__", "__getattr__", "__getitem__"), _CALLS_C),
    (signal, ("signal",), _SIGNALS),  # that asyncio.run does so is led
)
"""Libraries do all that for ends of their own: refused is what a target's own modules do."""
_NAMED_ANYWHERE = {
    id(found): found
    for owner, names, _ in (*_REFUSED, *_REFUSED_IN_OWN)
    if isinstance(owner, ModuleType)
    for name in names
    if (found := getattr(owner, name, None)) is not None
}
"""Functions that modules import by name."""
_OURS = __name__.partition(".world.")[0] + "."
_TELL_TIMES = ((os, ("stat", "lstat", "fstat")), (Path, ("stat", "lstat")))
_MOST_DESCRIPTORS = 256
"""What a search has open has lower numbers."""
_known: dict[str, tuple[Any, list[str]]] = {}
"""By name, a module with the names that it has for these functions."""


@contextmanager
def watched(refuse: Refuse, is_own: Callable[[str], bool]) -> Iterator[None]:
    """Meanwhile a pod that does what cannot be led is refused. `is_own` knows the target's own modules by name."""
    with ExitStack() as stack:

        def put(owner: Any, names_of_it: Iterable[str], make: Callable[[Callable[..., Any]], Any]) -> None:
            for name in filter(partial(hasattr, owner), names_of_it):
                own = name in vars(owner)
                real = getattr(owner, name)
                setattr(owner, name, make(real))
                stack.callback(setattr, owner, name, real) if own else stack.callback(delattr, owner, name)

        for name, when in _closings(_open_descriptors()).items():
            put(os, (name,), partial(_checked, deed=_CLOSES, refuse=refuse, when=when))
        for owner, that_tell in _TELL_TIMES:
            put(owner, that_tell, partial(_without_times, refuse=refuse, is_own=is_own))
        checked: dict[int, Callable[..., Any]] = {}
        for table, only_own in ((_REFUSED, None), (_REFUSED_IN_OWN, is_own)):
            for owner, names_of_it, deed in table:
                if not isinstance(owner, ModuleType):
                    put(owner, names_of_it, partial(_checked, deed=deed, refuse=refuse, is_own=only_own))
                    continue
                for real in filter(None, (getattr(owner, name, None) for name in names_of_it)):
                    checked[id(real)] = _checked(real, deed, refuse, only_own)
        for names, name, real in list(_places()):
            names[name] = checked[id(real)]
            stack.callback(names.__setitem__, name, real)
        yield


def is_watched(function: Any) -> bool:
    """Whether this is one of the functions that are replaced where a module names them, and there alone."""
    return id(function) in _NAMED_ANYWHERE


def _places() -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Where modules name the functions: their variables, the name, and the function."""
    for key, module in list(sys.modules.items()):
        if key.startswith(_OURS):
            continue
        if key not in _known or _known[key][0] is not module:
            held = list(getattr(module, "__dict__", {}).items())
            _known[key] = module, [name for name, value in held if id(value) in _NAMED_ANYWHERE]
        for name in _known[key][1]:
            found = module.__dict__.get(name)
            if id(found) in _NAMED_ANYWHERE:
                yield module.__dict__, name, found


def _checked(
    real: Callable[..., Any],
    deed: tuple[str, str],
    refuse: Refuse,
    is_own: Callable[[str], bool] | None = None,
    when: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """The function, refused to pods; with `is_own` only to such a module, with `when` only with such arguments."""

    def function(*args: Any, **options: Any) -> Any:
        frame = sys._getframe(1)
        if when is not None and not when(*args, *options.values()):
            return real(*args, **options)
        if is_own(frame.f_globals.get("__name__", "")) if is_own else not _is_the_harness(frame):
            try:
                refuse(lambda: unled(deed[0], place_of(frame), deed[1]))
            except BaseException:
                if args and isinstance(args[0], socket.socket):  # nobody else will close it
                    args[0].close()
                raise
        return real(*args, **options)

    return function


def _without_times(real: Callable[..., Any], refuse: Refuse, is_own: Callable[[str], bool]) -> Callable[..., Any]:
    """A function that tells of a file, without its times where one of a target's own modules asks."""

    def function(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return _Stat(found, refuse) if is_own(sys._getframe(1).f_globals.get("__name__", "")) else found

    return function


class _Stat:
    """What is known of a file, but for its times, which are of no run's clock."""

    def __init__(self, real: os.stat_result, refuse: Refuse) -> None:
        self._real = real
        self._refuse = refuse

    def __getattr__(self, name: str) -> Any:
        if "time" in name:
            self._ask(sys._getframe(1))
        return getattr(self._real, name)

    def __getitem__(self, index: int) -> Any:
        if index in (stat.ST_ATIME, stat.ST_MTIME, stat.ST_CTIME):
            self._ask(sys._getframe(1))
        return self._real[index]

    def _ask(self, frame: Any) -> None:
        self._refuse(lambda: unled(_ASKS_FOR_TIMES[0], place_of(frame), _ASKS_FOR_TIMES[1]))


def _open_descriptors() -> dict[int, tuple[int, int]]:
    """The descriptors that are open now, each with what it stands for: a number is used again once it is closed."""
    return {number: stands for number in range(_MOST_DESCRIPTORS) if (stands := _stands_for(number)) is not None}


def _stands_for(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _closings(ours: dict[int, tuple[int, int]]) -> dict[str, Callable[..., bool]]:
    """The functions that close descriptors, each with whether its arguments mean one of these."""

    def is_ours(number: int, *_: Any) -> bool:
        return number in ours and _stands_for(number) == ours[number]

    return {
        "close": is_ours,
        "closerange": lambda low, high: any(is_ours(number) for number in ours if low <= number < high),
        "dup2": lambda _, number, *__: is_ours(number),
    }


def _is_the_harness(frame: Any) -> bool:
    """Whether a client of the harness is connecting, or the harness handles a signal or watches over the pod."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(("world/client.py", "fleets/watchdog.py", "simulator/interrupts.py")):
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
    """Stands for an output of the process: what pods write there in every schedule is left out, and noted."""

    def __init__(self, real: TextIO, in_pod: Callable[[], bool], places: list[str]) -> None:
        self._real = real
        self._in_pod = in_pod
        self._places = places

    def write(self, text: str) -> int:
        if not self._in_pod():
            return self._real.write(text)
        if not self._places:
            self._places.append(place_of(sys._getframe(1)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def without_prints(in_pod: Callable[[], bool]) -> Iterator[list[str]]:
    """Meanwhile nothing that a pod prints or logs is seen. Yields where one has first done so, once it has."""
    places: list[str] = []
    out: Any = Prints(sys.stdout, in_pod, places)
    err: Any = Prints(sys.stderr, in_pod, places)
    with redirect_stdout(out), redirect_stderr(err):
        yield places
