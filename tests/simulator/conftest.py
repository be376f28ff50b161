"""What the simulator's tests share: waiting for processes, and clients of the local Gemini Files API."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from google import genai
from google.genai import types
from warm import Warm

from podrace.simulator.servers.connection import Server
from podrace.simulator.servers.embedded import EmbeddedServer


@pytest.fixture
def run_server(server: EmbeddedServer) -> Server:
    """The session's server in the form that explorations take."""
    return Server(url=server.url, info=server.info(), prefix="mirix:", embedded=server)


@pytest.fixture
def until() -> Callable[..., bool]:
    """A function that polls a condition; it returns False if the deadline passes."""
    return _until


def _until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> bool:
    """Poll; False if the deadline passes."""
    tick, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        tick.wait(0.005)
    return True


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    return _is_gone


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, or only a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] in ("", "Z")


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_736_899_200.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def files_client() -> Iterator[Callable[..., Any]]:
    """Clients of the real library, closed at the end."""
    clients: list[genai.Client] = []

    def make(url: str, timeout_ms: int | None = 10_000) -> Any:
        no_tls = {"verify": False}  # the server speaks plain HTTP; certificates would take 50 ms a client
        options = types.HttpOptions(base_url=url, timeout=timeout_ms, client_args=no_tls, async_client_args=no_tls)
        client = genai.Client(api_key="test", http_options=options)
        clients.append(client)
        return client.files

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(random.Random(1).randbytes(100_000))
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it printed, its wall time in seconds, and what was left behind."""

    code: int
    out: str
    err: str
    took_s: float
    left: list[str]


class Podrace:
    """The `podrace` command in a process group, a folder and a temporary folder of its own."""

    def __init__(self, folder: Path, warm: Warm | None) -> None:
        self.folder = folder
        self._warm = warm
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self._mark = os.urandom(8).hex()
        self._environment = {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TMPDIR": str(self.temporary),
            "PODRACE_TEST": self._mark,
        }

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        """Run to the end."""
        began_s = time.monotonic()
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return Ended(process.returncode, out, err, time.monotonic() - began_s, self.left())

    def script(self, text: str) -> Ended:
        """Run a script of bash to its end, in which `podrace` is the command, without coverage."""
        began_s = time.monotonic()
        named = f'podrace() {{ {sys.executable} -m podrace "$@"; }}\npython() {{ {sys.executable} "$@"; }}\n{text}'
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PODRACE_", "COV"))}
        done = subprocess.run(
            ["/bin/bash", "-c", named],
            cwd=self.folder,
            env=env | self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began_s, self.left())

    def start(
        self, *arguments: str, measured: bool = True, fresh: bool = False, **environment: str
    ) -> subprocess.Popen[str]:
        """Start it. `measured=False` means without coverage, whose tracer sometimes swallows a KeyboardInterrupt.

        `fresh` means in a new interpreter. Else it is forked from a process that has imported most of it.
        """
        left_out = "PODRACE_" if measured else ("PODRACE_", "COV")
        env = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
        env |= self._environment | environment
        if self._warm and not fresh:
            self._started.append(self._warm.start(arguments, cwd=str(self.folder), env=env))
            return self._started[-1]
        interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code = f"{interruptible}from podrace.__main__ import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Kill what still runs, if a test has failed."""
        for processes in self.processes().values():
            for process in processes:
                process.kill()
        for started in self._started:
            started.communicate()

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Every living process that descends from our command, by kind; pods are among `other`.

        A server overwrites its environment with its title, so it is recognised by its working folder; what is
        forked keeps the environment of who forked it, and is recognised by its session.
        """
        sessions = {process.pid for process in self._started}
        found: dict[str, list[psutil.Process]] = {"server": [], "fork server": [], "other": []}
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = " ".join(process.cmdline())
                served = "valkey-server" in words and process.cwd().startswith(f"{self.temporary}/")
                ours = served or os.getsid(process.pid) in sessions or self._mark in process.environ().values()
                if not ours:
                    continue
            except (psutil.Error, ProcessLookupError):
                continue
            kind = "server" if "valkey-server" in words else "fork server" if "forkserver import" in words else "other"
            found[kind].append(process)
        return found

    def left(self) -> list[str]:
        """Processes and temporary files that are not gone after some seconds."""
        _until(lambda: not self._left(), timeout_s=8.0)
        return self._left()

    def _left(self) -> list[str]:
        files = [path.name for path in self.temporary.iterdir()]
        return files + [str(process) for processes in self.processes().values() for process in processes]


PRELOADED = (
    "redis",
    "google.genai",
    "podrace.simulator.app.cli",
    "podrace.simulator.app.campaign",
    "podrace.simulator.fleets.pod",
    "multiprocess.forkserver",
    "rich.progress",
)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm | None]:
    """Forks processes that run `podrace`; None where coverage is measured, which begins with an interpreter."""
    if any(key.startswith("COV") for key in os.environ):
        yield None
        return
    with Warm("podrace", "podrace.__main__:main", PRELOADED) as started:
        yield started


@contextmanager
def _podrace(warm: Warm | None) -> Iterator[Podrace]:
    with tempfile.TemporaryDirectory(prefix="p") as folder:  # a short name, because a socket's path is limited
        command = Podrace(Path(folder), warm)
        yield command
        command.end()


@pytest.fixture
def podrace(warm: Warm | None) -> Iterator[Podrace]:
    with _podrace(warm) as command:
        yield command


@pytest.fixture(scope="module")
def podrace_once(warm: Warm | None) -> Iterator[Podrace]:
    """Runs a command once for several tests."""
    with _podrace(warm) as command:
        yield command


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler that has two workers, all of them on this machine."""
    pytest.importorskip("distributed")
    place = tmp_path / "scheduler.json"
    common = ("--scheduler-file", str(place))
    worker = ("worker", "--host", "127.0.0.1", "--no-nanny", "--nthreads", "1", "--no-dashboard", *common)
    commands = [
        ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common),
        worker,
        worker,
    ]
    with ExitStack() as stack:
        for command in commands:
            started = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tmp_path,
            )
            stack.callback(started.wait)
            stack.callback(started.terminate)
        from distributed import Client

        with Client(scheduler_file=str(place), timeout="30s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
        yield str(json.loads(place.read_text())["address"])
