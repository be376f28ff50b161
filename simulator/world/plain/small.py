"""Time, dates, chance, and what of the operating system tells pods apart: all of it the pod's own."""

from __future__ import annotations

import datetime as real_datetime
import os
import pickle as real_pickle
import random as real_random
import signal as real_signal
import socket as real_socket
import sys
import time as real_time
import uuid as real_uuid
from collections import ChainMap
from collections.abc import Callable
from typing import Any, Self

from podrace.simulator.world.clock import EPOCH_S, US_PER_S
from podrace.simulator.world.plain.inside import Here, PodsOwn
from podrace.simulator.world.steps import PAST_US

CORES = 4
"""On any machine: how many threads a pool has depends on it."""
UPTIME_S = 100_000
"""What the clocks that count from no certain moment show when a run begins."""


def time_names(here: Here) -> dict[str, Any]:
    def now() -> float:
        return here().now()

    def since_start() -> float:
        return here().now() - EPOCH_S + UPTIME_S

    def shown(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: function(*given or (now(),))

    def in_ns(clock: Callable[[], float]) -> Callable[[], int]:
        return lambda: round(clock() * US_PER_S) * 1000

    def strftime(form: str, *given: Any) -> str:
        return real_time.strftime(form, *given or (real_time.localtime(now()),))

    def sleep(seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        here().gate.sleep(seconds, PAST_US if seconds else 0)

    clocks = ("monotonic", "perf_counter", "process_time", "thread_time")
    names: dict[str, Any] = {"time": now} | dict.fromkeys(clocks, since_start)
    names |= {f"{name}_ns": in_ns(clock) for name, clock in names.items()}
    names |= {name: shown(getattr(real_time, name)) for name in ("gmtime", "localtime", "ctime")}
    asctime = shown(lambda when: real_time.asctime(real_time.localtime(when) if isinstance(when, float) else when))
    names |= {"sleep": sleep, "strftime": strftime, "asctime": asctime}

    def clock_gettime(clock: int) -> float:
        return now() if clock == getattr(real_time, "CLOCK_REALTIME", 0) else since_start()

    return names | {
        name: clock
        for name, clock in (
            ("clock_gettime", clock_gettime),
            ("clock_gettime_ns", lambda clock: in_ns(lambda: clock_gettime(clock))()),
        )
        if hasattr(real_time, name)
    }


def datetime_names(here: Here) -> dict[str, Any]:
    """`datetime` and `date`: to `isinstance` they are the real classes, and what they make is real."""

    class Facade(type):
        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, cls.__bases__[0])

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, cls.__bases__[0])

    class datetime(real_datetime.datetime, metaclass=Facade):  # noqa: N801 - as it is called
        def __new__(cls, *args: Any, **options: Any) -> Any:
            return _made(real_datetime.datetime, datetime, cls, args, options)

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_datetime.datetime.fromtimestamp(here().now(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return real_datetime.datetime.fromtimestamp(here().now(), real_datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return real_datetime.datetime.fromtimestamp(here().now())

    class date(real_datetime.date, metaclass=Facade):  # noqa: N801
        def __new__(cls, *args: Any, **options: Any) -> Any:
            return _made(real_datetime.date, date, cls, args, options)

        @classmethod
        def today(cls) -> Any:
            return real_datetime.date.fromtimestamp(here().now())

    for facade, real in ((datetime, real_datetime.datetime), (date, real_datetime.date)):
        for name in ("min", "max"):
            setattr(facade, name, getattr(real, name))
    return {"datetime": datetime, "date": date}


def _made(real: Any, facade: Any, cls: Any, args: Any, options: Any) -> Any:
    return real(*args, **options) if cls is facade else real.__new__(cls, *args, **options)


def uuid_names(here: Here) -> dict[str, Any]:
    def drawn(version: int) -> real_uuid.UUID:
        return real_uuid.UUID(int=here().env.rng.getrandbits(128), version=version)

    names = {"uuid4": lambda: drawn(4), "uuid1": lambda *_, **__: drawn(1)}
    return names | {name: lambda *_, **__: drawn(4) for name in ("uuid6", "uuid7") if hasattr(real_uuid, name)}


_BOUND = [name for name, value in vars(real_random).items() if getattr(value, "__self__", None) is real_random._inst]
"""The functions of `random` that use its hidden generator."""


def random_names(here: Here) -> dict[str, Any]:
    class Random(real_random.Random):
        def seed(self, a: Any = None, version: int = 2) -> None:
            super().seed(here().env.rng.getrandbits(64) if a is None else a, version)

    def of_the_pod(name: str) -> Callable[..., Any]:
        return lambda *args, **options: getattr(here().env.rng, name)(*args, **options)

    # the generator of the pod that draws: `secrets` has one for all pods
    drawn = {name: staticmethod(of_the_pod(name)) for name in ("random", "getrandbits", "randbytes")}
    system = type("SystemRandom", (real_random.SystemRandom,), drawn)
    return {name: of_the_pod(name) for name in _BOUND} | {"Random": Random, "SystemRandom": system}


class _Environ(PodsOwn):
    """`os.environ` of the pod that runs: a copy of the process's, from where the pod first looks at it."""

    def __init__(self, here: Here) -> None:
        def own() -> dict[str, str]:
            inside = here()
            if inside.environ is None:
                inside.environ = dict(os.environ)
            return inside.environ

        super().__init__(own)

    def __setitem__(self, name: str, value: str) -> None:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"str expected, not {type(value if isinstance(name, str) else name).__name__}")
        super().__setitem__(name, value)

    def copy(self) -> dict[str, str]:
        return dict(self)

    def __or__(self, other: Any) -> dict[str, str]:
        return {**self, **other}

    def __ror__(self, other: Any) -> dict[str, str]:
        return {**other, **self}

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self


def os_names(here: Here) -> dict[str, Any]:
    environ = _Environ(here)

    def uname() -> os.uname_result:
        system, _, *others = os.uname()
        return os.uname_result((system, host_of(here), *others))

    return {
        "uname": uname,
        "environ": environ,
        "getenv": lambda name, default=None: environ.get(name, default),
        "urandom": lambda size: here().env.rng.randbytes(size),
        "getrandom": lambda size, flags=0: here().env.rng.randbytes(size),
        "getpid": lambda: 1000 + sum(here().env.name.encode()),
        "register_at_fork": lambda **_: None,
        "cpu_count": lambda: CORES,
        "process_cpu_count": lambda: CORES,
    }


def signal_names(here: Here) -> dict[str, Any]:
    """No signal ever comes to a pod: it is killed without one. SIGINT is Ctrl-C, whoever sends it."""

    def raise_signal(number: int) -> None:
        if number != real_signal.SIGINT:
            here().refuse("handles or sends signals", "leave that to the program around the pod")
        real_signal.raise_signal(number)

    return {"signal": lambda number, handler: real_signal.SIG_DFL, "raise_signal": raise_signal}


def pickle_names(here: Here) -> dict[str, Any]:
    """pickle looks for classes in the modules of the process; those of a pod are its own."""

    def among_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            own = here().view.modules
            before = {name: sys.modules.get(name) for name in own}
            sys.modules.update(own)
            try:
                return function(*args, **options)
            finally:
                for name, module in before.items():
                    if module is None:
                        del sys.modules[name]
                    else:
                        sys.modules[name] = module

        return called

    class Pickler(real_pickle.Pickler):
        dump = among_its_own(real_pickle.Pickler.dump)

    class Unpickler(real_pickle.Unpickler):
        load = among_its_own(real_pickle.Unpickler.load)

    names = {name: among_its_own(getattr(real_pickle, name)) for name in ("dump", "dumps", "load", "loads")}
    return names | {"Pickler": Pickler, "Unpickler": Unpickler}


def host_of(here: Here) -> str:
    return f"pod-{here().env.name.lower()}"


def socket_names(here: Here) -> dict[str, Any]:
    return {
        "gethostname": lambda: host_of(here),
        "getfqdn": lambda name="": real_socket.getfqdn(name) if name else host_of(here),
    }


def sys_names(here: Here) -> dict[str, Any]:
    """A pod sees its own modules before those of the process."""
    return {"modules": PodsOwn(lambda: ChainMap(here().view.modules, sys.modules))}


def importlib_names(here: Here) -> dict[str, Any]:
    """`import_module`, which does not ask its caller's builtins."""

    def import_module(name: str, package: str | None = None) -> Any:
        import importlib.util

        view = here().view
        full = importlib.util.resolve_name(name, package) if name.startswith(".") else name
        view.builtins["__import__"](full)
        return view.load(full)

    return {"import_module": import_module}
