"""Small programs over time, dates and random numbers; each returns only what is the same in every run."""

from __future__ import annotations

import copy
import datetime as dates
import email.utils
import functools
import io
import logging
import os
import pickle
import platform
import random
import secrets
import socket
import sys
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from stat import S_ISREG
from time import monotonic, sleep
from timeit import default_timer, timeit
from typing import Any

import podrace

SHORT_S = 0.002
KEPT: list[int] = []
THIS = sys.modules[__name__]


@dataclass
class Job:
    """Its defaults come from functions that are bound when the class is made."""

    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    made: float = field(default_factory=time.time)
    day: date = field(default_factory=date.today)


def environment_variables() -> Any:
    before = os.environ.get("PODRACE_SMALL", "none")
    os.environ.setdefault("PODRACE_SMALL", "1")
    os.environ["PODRACE_SMALL"] += "2"
    told = [before, os.getenv("PODRACE_SMALL"), "PODRACE_SMALL" in os.environ, os.environ.copy()["PODRACE_SMALL"]]
    told += [(os.environ | {"PODRACE_SMALL": "3"})["PODRACE_SMALL"], ({"a": "b"} | os.environ)["PODRACE_SMALL"]]
    try:
        os.environ["PODRACE_SMALL"] = 1  # type: ignore[assignment]
    except TypeError as error:
        told.append(str(error))
    del os.environ["PODRACE_SMALL"]
    return told, os.getenv("PODRACE_SMALL", "none"), os.environ["PATH"] == os.getenv("PATH")


def clocks() -> Any:
    told = []
    for name in ("time", "monotonic", "perf_counter"):
        first, first_ns = getattr(time, name)(), getattr(time, f"{name}_ns")()
        sleep(SHORT_S)
        told.append((type(first).__name__, type(first_ns).__name__, getattr(time, name)() - first >= SHORT_S))
        told.append(-1e-6 <= first_ns / 1e9 - first < 100 and getattr(time, f"{name}_ns")() - first_ns >= 1_900_000)
    return told, isinstance(time.process_time(), float), abs(time.time() - time.time_ns() / 1e9) < 100


def clocks_that_show() -> Any:
    now = time.time()
    return (
        time.gmtime(0).tm_year,
        time.gmtime().tm_year == time.gmtime(now).tm_year,
        time.strftime("%Y") == time.strftime("%Y", time.localtime(now)),
        time.asctime().split()[-1] == time.ctime().split()[-1] == time.ctime(now).split()[-1],
        time.mktime(time.localtime(86400 * 365)),
    )


def sleeps() -> Any:
    before = monotonic()
    told = [sleep(0), sleep(SHORT_S), time.sleep(0.001)]
    return told, monotonic() - before >= 0.003


def datetimes() -> Any:
    now, utc = datetime.now(), datetime.now(UTC)
    later = now + timedelta(hours=1)
    return (
        isinstance(now, datetime), isinstance(now, date), issubclass(datetime, date), type(later) is type(now),
        utc.tzinfo is UTC, abs(utc.timestamp() - time.time()) < 100, abs(now.timestamp() - time.time()) < 100,
        isinstance(dates.datetime(2020, 1, 2), datetime), str(datetime(2020, 1, 2, 3, 4)),
        datetime.max == dates.datetime.max,
        datetime.fromisoformat("2024-05-06T07:08:09").isoformat(), datetime.strptime("2020", "%Y").year,
        date.today() == datetime.today().date(), str(date(2020, 2, 3)),
        datetime.combine(date(2020, 1, 1), dates.time(4)),
        datetime.fromtimestamp(0, UTC).year, pickle.loads(pickle.dumps(datetime(2020, 1, 2))) == datetime(2020, 1, 2),
        repr(datetime(2020, 1, 2)), isinstance("text", datetime), datetime(2020, 1, 2).replace(year=2021).year,
    )  # fmt: skip


class Stamp(datetime):
    """A subclass of a standard class."""

    def shown(self) -> str:
        return self.strftime("%Y/%m")


def datetime_subclass() -> Any:
    stamp = Stamp(2020, 5, 6)
    return stamp.shown(), isinstance(stamp, datetime), type(stamp).__name__


def uuids() -> Any:
    made = [uuid.uuid4() for _ in range(3)]
    named = uuid.uuid5(uuid.NAMESPACE_DNS, "example.com")
    return (
        [one.version for one in made],
        len(set(made)),
        uuid.uuid1().version,
        str(named),
        isinstance(made[0], uuid.UUID),
    )


def chance() -> Any:
    random.seed(5)
    told: list[Any] = [random.random(), random.randint(1, 6), random.choice("abc"), random.uniform(1, 2)]
    items = list(range(9))
    random.shuffle(items)
    told += [items, random.sample(range(99), 3), random.gauss(0, 1), random.choices("ab", k=4), random.randbytes(3)]
    own = random.Random(7)
    state = own.getstate()
    told += [own.random(), own.randrange(99), (own.setstate(state), own.random())[1], random.Random("x").random()]
    free = random.Random()
    return (
        told,
        0 <= free.random() < 1,
        0 <= random.SystemRandom().random() < 1,
        random.Random().random() != free.random(),
    )


def secret_things() -> Any:
    return (
        len(secrets.token_bytes(5)), len(secrets.token_hex(5)), len(secrets.token_bytes()),
        len(secrets.token_urlsafe(6)),
        secrets.choice("a"), 0 <= secrets.randbelow(3) < 3, secrets.randbits(4) < 16, secrets.compare_digest("a", "a"),
        len(os.urandom(7)), secrets.token_hex() != secrets.token_hex(), os.urandom(9) != os.urandom(9),
        0 <= secrets.SystemRandom().randrange(9) < 9,
    )  # fmt: skip


def defaults() -> Any:
    one, other = Job(), Job()
    return one.name != other.name, type(one.made).__name__, one.day == date.today(), len(one.name)


def this_machine() -> Any:
    return isinstance(os.getpid(), int), os.getpid() == os.getpid(), type(socket.gethostname()).__name__, os.sep


def given_out() -> Any:
    """Uses functions bound earlier: as a default, an alias, a partial."""
    from random import randint as drawn
    from time import time as now

    def at(clock: Callable[[], float] = time.time) -> float:
        return clock()

    later = functools.partial(sleep, SHORT_S)
    before = at()
    later()
    return at() - before >= SHORT_S, now() >= before, drawn(1, 1)


def this_module() -> Any:
    """Looks itself up in sys.modules, at import and later."""
    later = sys.modules[__name__]
    later.KEPT.append(1)
    return later is THIS, len(KEPT), "json" in sys.modules, sys.modules.get("no such module"), sys.stdout is not None


def pickled() -> Any:
    """Classes of its own are found again, in one go and in a file."""
    job, file = Job(), io.BytesIO()
    pickle.dump(job, file)
    file.seek(0)
    return pickle.loads(pickle.dumps(job)) == job == pickle.load(file), isinstance(copy.deepcopy(job), Job)


def other_clocks() -> Any:
    before, wall = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_REALTIME)
    sleep(SHORT_S)
    return (
        time.clock_gettime(time.CLOCK_MONOTONIC) - before >= SHORT_S,
        time.clock_gettime_ns(time.CLOCK_REALTIME) - wall >= SHORT_S * 1e9,
        abs(time.clock_gettime(time.CLOCK_REALTIME) - time.time()) < 1,
        len(os.getrandom(4)),
    )


@functools.lru_cache(maxsize=9)
def _cached(what: str) -> str:
    return what + uuid.uuid4().hex


def cached() -> Any:
    return _cached("a") == _cached("a"), _cached("a") != _cached("b"), len(_cached("a"))


def finalizers() -> Any:
    told: list[str] = []
    holder = type("Holder", (), {})()
    weakref.finalize(holder, told.append, "gone")
    del holder
    return told


def pickled_by_hand() -> Any:
    job, file = Job(), io.BytesIO()
    pickle.Pickler(file).dump(job)
    return pickle.Unpickler(io.BytesIO(file.getvalue())).load() == job == pickle.loads(file.getvalue())


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def clocks_of_libraries() -> Any:
    began_s = default_timer()
    took_s = timeit(lambda: sleep(SHORT_S), number=1)
    log, kept = logging.Logger("not registered"), Kept()
    log.addHandler(kept)
    log.warning("when?")
    sent = email.utils.parsedate_to_datetime(email.utils.formatdate())
    return (
        SHORT_S <= took_s < 9, took_s <= default_timer() - began_s, abs(kept.records[0].created - time.time()) < 100,
        abs(sent.timestamp() - time.time()) < 100, abs(email.utils.localtime().timestamp() - time.time()) < 100,
        email.utils.make_msgid() != email.utils.make_msgid(),
    )  # fmt: skip


def name_of_the_machine() -> Any:
    return socket.gethostname() == platform.node() == os.uname().nodename == os.uname()[1]


def files() -> Any:
    path = Path(__file__)
    return (
        path.stat().st_size == os.stat(path).st_size == os.path.getsize(path) > 0, path.exists(), path.is_file(),
        S_ISREG(os.lstat(path).st_mode), os.path.isdir(path.parent), len(list(path.parent.glob(path.name))),
    )  # fmt: skip


PROGRAMS = {
    program.__name__: program
    for program in (
        clocks, clocks_that_show, sleeps, datetimes, datetime_subclass, uuids, chance, secret_things, defaults,
        this_machine, this_module, given_out, pickled, other_clocks, cached, finalizers, environment_variables,
        pickled_by_hand, clocks_of_libraries, name_of_the_machine, files,
    )
}  # fmt: skip


def drawn() -> Any:
    """Values from every source of randomness."""
    return [str(uuid.uuid4()), random.random(), secrets.token_hex(4), os.urandom(4), random.Random().random()]


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Programs()


class Programs:
    def run(self, name: str) -> Any:
        return repr(PROGRAMS[name]())

    def draw(self) -> Any:
        return drawn()
